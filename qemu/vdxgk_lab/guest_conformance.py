"""The callbacks as a guest has them: dxgkctl, miniport, shim, QEMU's IOMMU, backend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from vdxgk.conformance import Answer, Call
from vdxgk.conformance.implementation import Arguments
from vdxgk.memory.ddi import CacheType, PhysicalMemoryType
from vdxgk_lab.guest import Guest

DEVICE = "/sys/bus/pci/devices/0000:00:05.0"
SAVE_AREA = 16 << 20
"""The framebuffer's size."""
LIMIT = 1 << 16
"""Runs and page numbers asked for: more than any vector's object has."""
SAVE_AREA_OPTIONS = {"hAdapter": "adapter", "PhysicalAdapterIndex": "index"}
CACHE_TYPES: dict[str, int] = {
    "uncached-minus": CacheType.NON_CACHED,
    "uncached": CacheType.NON_CACHED,
    "write-back": CacheType.CACHED,
    "write-combining": CacheType.WRITE_COMBINED,
}
"""What the guest's page tables say, in the DDI's words."""
START = """
cd /tmp && mkfifo dxgkctl.in && : >dxgkctl.out
dxgkctl script - <dxgkctl.in >>dxgkctl.out 2>&1 &
sleep 2147483647 >dxgkctl.in 2>/dev/null </dev/null &
"""
"""One dxgkctl for all calls: a view for user mode lives as long as its process."""
END = "killall dxgkctl sleep; rm -f /tmp/dxgkctl.in /tmp/dxgkctl.out"
ASK = """
cd /tmp && cat >dxgkctl.in
until [ "$(wc -l <dxgkctl.out)" -ge "$2" ]; do sleep 0.05; done
tail -n "$1" dxgkctl.out
"""
"""Passes lines on and waits for $1 answers, after which there are $2 in all."""
MAY_STOP_WINDOWS = frozenset({"ClosePhysicalMemoryObject", "DestroyPhysicalMemoryObject"})


class GuestImplementation:
    """Calls become lines of a script, for which dxgkctl answers a JSON object each."""

    features: frozenset[str]
    """A guest has one adapter, and its miniport frees only lists that it holds."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._lines = 0
        guest.run(["sh", "-c", START]).check()
        status, events = self._script(["status", "events"])
        self.environment = {
            "adapter": int(status["adapter"], 16),
            "highest_visible": int(status["highest_visible"], 16),
            "io_space": _framebuffer(guest),
            "save_area": SAVE_AREA,
        }
        self.features = frozenset()
        if status["mode"] == "physical":
            self.features = frozenset({"physical-addressing"})
            self.environment["physical_adapter"] = self.environment["adapter"]
        self._events = int(events["total"])
        self._views: dict[int, int] = {}  # base to dxgkctl's number

    def close(self) -> None:
        """End the guest's dxgkctl, which keeps the driver in use."""
        self._guest.run(["sh", "-c", END])

    def carry_out(self, calls: Sequence[Call]) -> list[Answer]:
        """As BatchImplementation has it."""
        lines: list[str] = []
        for call in calls:
            lines.append(self._command(call))
            if call.name in MAY_STOP_WINDOWS:
                lines.append("events")
        answers = iter(self._script(lines))
        result = []
        for call in calls:
            raw = next(answers)
            events = next(answers) if call.name in MAY_STOP_WINDOWS else None
            result.append(self._answer(call, raw, events))
        return self._zeroes_checked(calls, result)

    def _script(self, lines: Sequence[str]) -> list[dict[str, Any]]:
        text = "".join(f"{line}\n" for line in lines)
        self._lines += len(lines)
        command = ["sh", "-c", ASK, "ask", str(len(lines)), str(self._lines)]
        result = self._guest.run(command, timeout=120, stdin=text.encode()).check()
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(answers) == len(lines)
        return answers

    def _command(self, call: Call) -> str:
        given = call.arguments
        match call.name:
            case "CreatePhysicalMemoryObject":
                return " ".join(["create", *_create_options(given)])
            case "OpenPhysicalMemoryObject":
                names = ("hPhysicalMemoryObject", "hAdapter")
                target, adapter = (hex(given.get(name, 0)) for name in names)
                return f"open {target} --adapter {adapter}"
            case "ClosePhysicalMemoryObject":
                return f"close {given.get('hAdapterMemoryObject', 0):#x}"
            case "DestroyPhysicalMemoryObject":
                names = ("hPhysicalMemoryObject", "hAdapterMemoryObject")
                return " ".join(["destroy", *(hex(given.get(name, 0)) for name in names)])
            case "MapPhysicalMemory":
                options = _options(given, {"Offset": "offset", "Size": "size"})
                mode = given.get("AccessMode", 0)
                target = hex(given.get("hPhysicalMemoryObject", 0))
                return " ".join(["map", target, *options, f"--access={mode:#x}"])
            case "UnmapPhysicalMemory":
                return f"unmap {self._views.pop(given['pBaseAddress'])}"
            case "AllocateAdl":
                named = {"Offset": "offset", "Size": "size", "Flags": "flags"}
                opening = hex(given.get("hAdapterMemoryObject", 0))
                return " ".join(["adl", opening, *_options(given, named), f"--limit={LIMIT}"])
            case "FreeAdl":
                return f"free {given['pAdl']} {given['hAdapterMemoryObject']:#x}"
            case "PinFrameBufferForSave2":
                named = {"CommitSize": "size", "Flags": "flags", **SAVE_AREA_OPTIONS}
                return " ".join(["pin", *_options(given, named), f"--limit={LIMIT}"])
            case "UnpinFrameBufferForSave":
                return " ".join(["unpin", *_options(given, SAVE_AREA_OPTIONS)])
            case _:
                return f"older {call.name} --adapter={given.get('hAdapter', 0):#x}"

    def _answer(self, call: Call, raw: dict[str, Any], events: dict[str, Any] | None) -> Answer:
        assert "status" in raw, raw
        status = int(raw["status"], 16)
        bugchecks = self._bugchecks(events) if events else []
        if status:
            return Answer(status, bugchecks=bugchecks)
        match call.name:
            case "CreatePhysicalMemoryObject":
                handles = {
                    "hPhysicalMemoryObject": int(raw["object"], 16),
                    "hAdapterMemoryObject": int(raw["adapter_object"], 16),
                }
                runs = [(int(base, 16), int(size, 16)) for base, size in raw.get("runs", [])]
                return Answer(status, handles, runs=runs)
            case "OpenPhysicalMemoryObject":
                return Answer(status, {"hAdapterMemoryObject": int(raw["adapter_object"], 16)})
            case "MapPhysicalMemory":
                base = int(raw["base"], 16)
                self._views[base] = raw["view"]
                view = {"pMappedAddress": base, "Offset": raw["offset"], "Size": raw["size"]}
                cache = CACHE_TYPES.get(raw["attributes"])
                return Answer(status, view, cache=cache, writable=raw["writable"])
            case "AllocateAdl" | "PinFrameBufferForSave2":
                pages = [int(page, 16) for page in raw["pages"]]
                assert len(pages) == raw["page_count"]
                contiguous = raw["contiguous"]
                adl = raw.get("adl", 1)
                return Answer(status, {"pAdl": adl}, pages=pages, contiguous=contiguous)
            case _:
                return Answer(status, bugchecks=bugchecks)

    def _bugchecks(self, events: dict[str, Any]) -> list[tuple[int, int]]:
        """Of the events since the last look."""
        new = events["total"] - self._events
        self._events = events["total"]
        assert 0 <= new <= len(events["events"])
        return [
            (int(event["code"], 16), int(event["p1"], 16))
            for event in events["events"][len(events["events"]) - new :]
            if event["type"] == "bugcheck"
        ]

    def _zeroes_checked(self, calls: Sequence[Call], answers: list[Answer]) -> list[Answer]:
        """The guest's CPU reads what vectors want to be zero."""
        places = [
            index
            for index, call in enumerate(calls)
            if "Memory.Zeroed" in call.wanted and answers[index].succeeded
        ]
        if not places:
            return answers
        reads = self._script(
            [
                f"read {answers[index].outputs['hPhysicalMemoryObject']:#x} --expect=0 --step=0"
                for index in places
            ]
        )
        for index, raw in zip(places, reads, strict=True):
            answer = answers[index]
            answers[index] = Answer(
                answer.status, answer.outputs, answer.runs, zeroed=not raw["mismatch"]
            )
        return answers


def _framebuffer(guest: Guest) -> int:
    """The address of BAR 0."""
    resources = guest.run(["cat", f"{DEVICE}/resource"]).check().stdout
    return int(resources.split()[0], 16)


def _options(given: Arguments, named: dict[str, str]) -> Iterable[str]:
    return (f"--{option}={given.get(field, 0):#x}" for field, option in named.items())


def _create_options(given: Arguments) -> Iterable[str]:
    yield from _options(
        given, {"Size": "size", "Context": "context", "Type": "type", "CacheType": "cache"}
    )
    adapter = given.get("hAdapter", 0)
    yield f"--adapter={adapter:#x}" if adapter else "--no-adapter"
    members: dict[int, dict[str, str]] = {
        PhysicalMemoryType.MDL: {
            "Mdl.LowAddress": "low",
            "Mdl.HighAddress": "high",
            "Mdl.SkipBytes": "skip",
            "Mdl.Flags": "flags",
        },
        PhysicalMemoryType.SECTION: {
            "Section.DesiredAccess": "desired-access",
            "Section.PageProtection": "flags",
            "Section.AllocationAttributes": "attributes",
        },
        PhysicalMemoryType.IO_SPACE: {"IOSpace.BaseAddress": "low"},
    }
    contiguous = {
        "ContiguousMemory.LowestAcceptableAddress": "low",
        "ContiguousMemory.HighestAcceptableAddress": "high",
        "ContiguousMemory.BoundaryAddressMultiple": "boundary",
    }
    yield from _options(given, members.get(given.get("Type", 0), contiguous))
    yield f"--limit={LIMIT}"
