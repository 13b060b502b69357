"""The guest kernel's own account of a driver's calls of the DMA API.

Linux 6.12 and later have tracepoints for them (events/dma).  They tell what no
IOMMU can: sizes to the byte, directions, and, where buffers are bounced
(`swiotlb=force`, no IOMMU), who took ownership when.  There a missing sync is
real: the driver reads old data.

Guest and host share no clock.  What orders the two accounts is the device's
interrupts: an access before the device's third comes before everything that
the guest did after its third.  Between two interrupts the order is not known,
and nothing is concluded from it.

A scatter list is as many mappings as it has entries for the device.  What unmaps
it names physical addresses only, so they are kept to know it by.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vdxgk_lab.dma_oracle import Bug, DeviceAccess, DmaOracle, Finding, truncated
from vdxgk_lab.errors import LabError, Misconfigured
from vdxgk_lab.guest import Guest

_TRACING = "/sys/kernel/tracing"
_NEVER = 1 << 62
_EVENT = re.compile(r": (?P<event>dma_\w+): (?P<device>\S+) dir=(?P<direction>\w+) (?P<rest>.*)$")
_RANGE = re.compile(r"dma_addr=(?P<address>[0-9a-f]+) size=(?P<size>\d+)")
_ARRAY = re.compile(r"(\w+)=\{([^}]*)\}")  # of a scatter list's event
_WRITABLE, _READABLE = {"FROM_DEVICE", "BIDIRECTIONAL"}, {"TO_DEVICE", "BIDIRECTIONAL"}


class TraceUnclear(LabError):  # noqa: N818
    """The two accounts cannot be laid side by side."""


@dataclass
class ApiMapping:
    """A mapping as the driver asked for it; times are counts of interrupts."""

    address: int
    size: int
    direction: str
    coherent: bool
    begin: int
    end: int = _NEVER
    taken: list[int] = field(default_factory=list)
    """When the CPU took ownership."""
    given: list[int] = field(default_factory=list)
    """When the device got it back."""
    pages: tuple[int, ...] = ()
    """Of a scatter list: the physical addresses of all its entries."""

    def covers(self, address: int, size: int) -> bool:
        """Whether all of a range lies in it."""
        return self.address <= address and address + size <= self.address + self.size


class DmaTrace:
    """Traces one device's driver in a guest."""

    def __init__(self, guest: Guest, device: str, interrupt: str) -> None:
        """`device` is a PCI address as Linux writes it, `interrupt` its name in /proc/interrupts.

        Raises Misconfigured if the guest's kernel does not trace the DMA API.
        """
        self._guest = guest
        self._device = device
        self._interrupt = interrupt
        self._shell(f"[ -d {_TRACING}/events ] || mount -t tracefs none {_TRACING}")
        if not guest.run(["test", "-d", f"{_TRACING}/events/dma"]).ok:
            raise Misconfigured(
                "the guest's kernel does not trace the DMA API.", "Choose Linux 6.12 or later."
            )
        bounced = guest.run(["grep", "-qw", "swiotlb=force", "/proc/cmdline"]).ok
        self.sees_syncs = bounced and not self._is_translated()
        """Whether the kernel passes every dma_sync_* on; elsewhere on x86 it skips them."""

    def start(self) -> None:
        """Forget what was traced, and trace."""
        irq = f"{_TRACING}/events/irq/irq_handler_entry"
        self._shell(
            f"echo > {_TRACING}/trace; "
            f"echo 'name == \"{self._interrupt}\"' > {irq}/filter; "
            f"echo 1 > {irq}/enable; echo 1 > {_TRACING}/events/dma/enable"
        )

    def judge(self, oracle: DmaOracle) -> None:
        """Give the oracle what follows from both accounts since the start of both.

        Raises TraceUnclear if they cannot be compared.
        """
        text = self._shell(f"cat {_TRACING}/trace").split("\n")
        interrupts = sum(_is_interrupt(line, self._interrupt) for line in text)
        if interrupts != oracle.interrupts:
            raise TraceUnclear(
                f"the device raised {oracle.interrupts} interrupts, the guest took {interrupts}.",
                "Let the driver wait for each before it causes the next.",
            )
        mappings = mappings_of(text, self._device, self._interrupt)
        oracle.add(judge(oracle.accesses, mappings, oracle.address_bits, self.sees_syncs))

    def _is_translated(self) -> bool:
        kind = f"/sys/bus/pci/devices/{self._device}/iommu_group/type"
        shown = self._guest.run(["cat", kind])
        return shown.ok and shown.stdout.strip() != "identity"

    def _shell(self, script: str) -> str:
        return self._guest.run(["sh", "-c", script]).check().stdout


def mappings_of(lines: Iterable[str], device: str, interrupt: str) -> list[ApiMapping]:
    """What a trace says of one device.  Raises TraceUnclear for calls that are not followed."""
    mappings: list[ApiMapping] = []
    time = 0
    for line in lines:
        if _is_interrupt(line, interrupt):
            time += 1
            continue
        event = _EVENT.search(line)
        if event is None or event["device"] != device:
            continue
        name, rest = event["event"], event["rest"]
        if name.endswith("_err"):
            continue  # nothing was mapped
        try:
            ranges, pages = _ranges(rest)
        except ValueError as error:
            raise TraceUnclear(f"{name} is not understood: {line.strip()}") from error
        live = [m for m in mappings if m.end == _NEVER]
        named = [m for m in live if any(m.covers(address, 1) for address, _ in ranges)]
        if name.startswith(("dma_map_", "dma_alloc")):
            coherent = name.startswith("dma_alloc")
            mappings += [
                ApiMapping(address, size, event["direction"], coherent, time, pages=pages)
                for address, size in ranges
            ]
        elif name.startswith(("dma_unmap_", "dma_free")):
            for mapping in [m for m in live if m.pages == pages] if pages else named:
                mapping.end = time
        elif name.endswith("_for_cpu"):
            for mapping in named:
                mapping.taken.append(time)
        elif name.endswith("_for_device"):
            for mapping in named:
                mapping.given.append(time)
    return mappings


def _ranges(text: str) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
    """What an event says: ranges of DMA addresses, and a scatter list's physical addresses.

    Raises ValueError for what is not understood, or not whole.
    """
    single = _RANGE.match(text)
    if single:
        return [(int(single["address"], 16), int(single["size"]))], ()
    arrays = {
        name: tuple(int(word, 0) for word in words.split(",") if word)
        for name, words in _ARRAY.findall(text)
    }
    if not arrays or "[TRUNCATED]" in text:
        raise ValueError(text)
    pairs = zip(arrays.get("dma_addrs", ()), arrays.get("sizes", ()), strict=True)
    # Entries that the IOMMU has joined to earlier ones have no length.
    return [(address, size) for address, size in pairs if size], arrays.get("phys_addrs", ())


def _is_interrupt(line: str, name: str) -> bool:
    return "irq_handler_entry:" in line and line.rstrip().endswith(f"name={name}")


def judge(
    accesses: Sequence[DeviceAccess],
    mappings: Sequence[ApiMapping],
    address_bits: int,
    syncs: bool,
) -> list[Finding]:
    """What follows from what a device did and what its driver mapped.

    `syncs`: the mappings tell of every dma_sync_*.
    """
    found = [
        finding for access in accesses if (finding := _misplaced(access, mappings, address_bits))
    ]
    if syncs:
        for mapping in mappings:
            if not mapping.coherent:
                found += _not_taken(mapping, accesses)
                found += _not_given(mapping, accesses)
    return found


def _misplaced(
    access: DeviceAccess, mappings: Sequence[ApiMapping], address_bits: int
) -> Finding | None:
    def finding(bug: Bug, detail: str = "") -> Finding:
        return Finding(bug, access.address, access.size, access.write, detail)

    live = [m for m in mappings if m.begin <= access.interrupts <= m.end]
    around = [m for m in live if m.covers(access.address, access.size)]
    allowed = _WRITABLE if access.write else _READABLE
    if any(m.coherent or m.direction in allowed for m in around):
        return None
    if around:
        return finding(Bug.WRONG_DIRECTION, f"mapped {around[0].direction}")
    for m in live:
        if m.covers(access.address, 1):
            return finding(Bug.SHORT_MAPPING, f"{m.size} bytes are mapped at {m.address:#x}")
    for m in live:
        if truncated(m.address, m.size, access.address, address_bits):
            return finding(Bug.FORGOTTEN_MASK, f"{m.address:#x} is mapped")
    if any(m.end < access.interrupts and m.covers(access.address, 1) for m in mappings):
        return finding(Bug.USE_AFTER_UNMAP)
    return finding(Bug.WILD_ADDRESS)


def _within(mapping: ApiMapping, accesses: Sequence[DeviceAccess]) -> list[DeviceAccess]:
    """The accesses to a mapping while it lived."""
    return [
        access
        for access in accesses
        if mapping.begin <= access.interrupts <= mapping.end
        and mapping.covers(access.address, access.size)
    ]


def _not_taken(mapping: ApiMapping, accesses: Sequence[DeviceAccess]) -> list[Finding]:
    """Writes over data that the CPU could not have read: it took no ownership between."""
    writes = [access for access in _within(mapping, accesses) if access.write]
    found = []
    for first, second in itertools.pairwise(writes):
        between = range(first.interrupts + 1, second.interrupts + 1)
        if between and not any(time in between for time in mapping.taken):
            detail = "written twice, and no dma_sync_*_for_cpu between"
            found.append(Finding(Bug.MISSING_SYNC, second.address, second.size, True, detail))
    return found


def _not_given(mapping: ApiMapping, accesses: Sequence[DeviceAccess]) -> list[Finding]:
    """Reads of what the CPU has taken to change it, and has not given back.

    Of buffers that the device only writes the CPU may keep ownership (Linux's
    core-api/dma-api-howto): there is nothing to pass on.
    """
    found = []
    for access in _within(mapping, accesses):
        taken = [time for time in mapping.taken if time < access.interrupts]
        if access.write or not taken:
            continue
        if not any(taken[-1] <= time <= access.interrupts for time in mapping.given):
            detail = "the CPU has it, and no dma_sync_*_for_device gave it back"
            found.append(Finding(Bug.MISSING_SYNC, access.address, access.size, False, detail))
    return found
