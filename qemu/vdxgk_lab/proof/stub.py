"""dxgkctl in the guest, as methods with typed answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vdxgk_lab.errors import GuestError
from vdxgk_lab.guest import Guest
from vdxgk_lab.proof.cases import ObjectCase

_NTSTATUS_FAILURE = 1
MAX_RUNS = 1 << 15
"""Runs asked for: more than a 64 MiB object can have."""


class StubRefused(Exception):  # noqa: N818 - an answer of the driver
    """The driver or the backend answered an NTSTATUS that is a failure."""

    def __init__(self, command: str, answer: dict[str, Any]) -> None:
        super().__init__(f"dxgkctl {command}: {answer.get('name')} ({answer.get('status')})")
        self.status = int(str(answer.get("status", "0")), 16)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class CreateReply:
    """A new object: handles, and guest-physical runs (base, size) in object order."""

    object: int
    adapter_object: int
    run_count: int
    runs: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class AdlReply:
    """A live list. `logical` is the address of its first page."""

    id: int
    logical: int
    page_count: int
    contiguous: bool


@dataclass(frozen=True, slots=True)
class ReadReply:
    """What the guest's CPU read: CRC32, and the offset of the first unexpected word if any."""

    crc32: int
    mismatch: int | None


@dataclass(frozen=True, slots=True)
class DmaReply:
    """How an engine command ended."""

    faulted: bool
    fault_reason: int
    fault_address: int
    done: int
    crc32: int


@dataclass(frozen=True, slots=True)
class CanaryReply:
    """Donated pages without an object: looked at, and damaged now or earlier."""

    checked: int
    damaged: int


@dataclass(frozen=True, slots=True)
class StatusReply:
    """What the shim knows of its adapter; addresses are inclusive bounds."""

    mode: str
    highest_visible: int
    highest_ram: int
    logical_start: int
    logical_end: int
    requests: int
    doorbells: int


class Stub:
    """The stub of a running guest. Methods raise StubRefused, or LabError."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def call(self, *arguments: str, timeout: float = 120) -> dict[str, Any]:
        """Run a dxgkctl command; its answer. Raises StubRefused for a failing NTSTATUS."""
        answer, exit_status = self.try_(*arguments, timeout=timeout)
        if exit_status == _NTSTATUS_FAILURE:
            raise StubRefused(" ".join(arguments), answer)
        return answer

    def try_(self, *arguments: str, timeout: float = 120) -> tuple[dict[str, Any], int]:
        """Run a dxgkctl command; its answer and exit status, 0 or 1.

        Raises GuestError if it could not even ask the driver.
        """
        result = self._guest.run(["dxgkctl", "--json", *arguments], timeout=timeout)
        if result.exit_status not in (0, _NTSTATUS_FAILURE):
            raise GuestError(f"dxgkctl {' '.join(arguments)} failed.", result.stderr.strip())
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer, result.exit_status

    def create(self, case: ObjectCase) -> CreateReply:
        """CreatePhysicalMemoryObject."""
        options = {
            "--type": case.type,
            "--size": case.size,
            "--low": case.low,
            "--high": case.high,
            "--boundary": case.boundary,
            "--skip": case.skip,
            "--flags": case.flags or None,
            "--cache": case.cache,
            "--limit": MAX_RUNS,
        }
        given = ((name, value) for name, value in options.items() if value is not None)
        words = [str(word) for pair in given for word in pair]
        if case.late_open:
            words.append("--no-adapter")
        answer = self.call("create", *words)
        return CreateReply(
            object=int(answer["object"], 16),
            adapter_object=int(answer["adapter_object"], 16),
            run_count=answer["run_count"],
            runs=[(int(base, 16), int(size, 16)) for base, size in answer["runs"]],
        )

    def open(self, target: int) -> int:
        """OpenPhysicalMemoryObject; the adapter object."""
        return int(self.call("open", hex(target))["adapter_object"], 16)

    def destroy(self, target: int, adapter_object: int) -> None:
        """DestroyPhysicalMemoryObject."""
        self.call("destroy", hex(target), hex(adapter_object))

    def allocate_adl(
        self, adapter_object: int, size: int, *, prefer_contiguous: bool = False
    ) -> AdlReply:
        """AllocateAdl over the first `size` bytes."""
        flags = ["--prefer-contiguous"] if prefer_contiguous else []
        answer = self.call("adl", hex(adapter_object), "--size", str(size), "--limit", "1", *flags)
        return AdlReply(
            answer["adl"], int(answer["logical"], 16), answer["page_count"], answer["contiguous"]
        )

    def free_adl(self, adl: int) -> None:
        """FreeAdl."""
        self.call("free", str(adl))

    def write(self, target: int, size: int, value: int, step: int) -> int:
        """The guest's CPU writes the words value + i * step; their CRC32."""
        return int(
            self.call(
                *("write", hex(target), "--size", str(size)),
                *("--value", hex(value), "--step", hex(step)),
            )["crc32"],
            16,
        )

    def read(self, target: int, size: int, value: int, step: int) -> ReadReply:
        """The guest's CPU reads, and compares with the words value + i * step."""
        answer, _ = self.try_(
            *("read", hex(target), "--size", str(size)),
            *("--expect", hex(value), "--step", hex(step)),
        )
        if "mismatch" not in answer or "crc32" not in answer:
            raise StubRefused("read", answer)
        mismatch = int(answer["mismatch_offset"], 16) if answer["mismatch"] else None
        return ReadReply(int(answer["crc32"], 16), mismatch)

    def dma(self, operation: str, *, messages: bool = False, **numbers: int) -> DmaReply:
        """An engine command; a fault is an answer, not an error."""
        words = [w for name, value in numbers.items() for w in (f"--{name}", hex(value))]
        if messages:
            words.append("--messages")
        answer, _ = self.try_("dma", operation, *words)
        if "fault" not in answer:
            raise StubRefused("dma", answer)
        return DmaReply(
            faulted=answer["fault"],
            fault_reason=answer.get("fault_reason", 0),
            fault_address=int(answer.get("fault_address", "0"), 16),
            done=answer["done"],
            crc32=int(answer.get("crc32", "0"), 16),
        )

    def device_crc32(self, logical: int, size: int, *, messages: bool = False) -> int | None:
        """The device reads; CRC32, or None after a fault."""
        reply = self.dma("crc32", source=logical, size=size, messages=messages)
        return None if reply.faulted else reply.crc32

    def device_fill(
        self, logical: int, size: int, value: int, step: int, *, messages: bool = False
    ) -> bool:
        """The device writes the words value + i * step; whether without a fault."""
        reply = self.dma(
            "fill", destination=logical, size=size, value=value, step=step, messages=messages
        )
        return not reply.faulted and reply.done == size

    def canary(self) -> CanaryReply:
        """Look at all donated pages that no object owns."""
        answer, _ = self.try_("canary")
        return CanaryReply(answer["checked"], answer["damaged"] + answer["damaged_before"])

    def status(self) -> StatusReply:
        """The shim's own view."""
        answer = self.call("status")
        return StatusReply(
            mode=answer["mode"],
            highest_visible=int(answer["highest_visible"], 16),
            highest_ram=int(answer["highest_ram"], 16),
            logical_start=int(answer["logical_start"], 16),
            logical_end=int(answer["logical_end"], 16),
            requests=answer["requests"],
            doorbells=answer["doorbells"],
        )

    def events(self) -> list[dict[str, Any]]:
        """The last events, oldest first."""
        events: list[dict[str, Any]] = self.call("events")["events"]
        return events

    def sabotage(self, kind: str, page: int = 0) -> None:
        """Let the shim do one thing wrong, once; see `dxgkctl` for the kinds."""
        self.call("sabotage", kind, "--page", str(page))
