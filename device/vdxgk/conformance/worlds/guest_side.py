"""What a guest does for the callbacks: memory that it donates, structures that it fills."""

from __future__ import annotations

from collections.abc import Iterable

from vdxgk.conformance.implementation import Answer, Call
from vdxgk.memory.ddi import CreatePhysicalMemoryObject, PhysicalMemoryType
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import PAGE_SIZE, Range, align_down, align_up
from vdxgk.memory.ranges import RangeSet

DONATIONS = 16
"""How often one call may ask for memory, as in the shim."""
HIGHEST_VISIBLE = (1 << 32) - 1
SAVE_AREA = 1 << 20
"""Bytes of the save area that the driver asks for."""
IO_SPACE = 1 << 38
"""Where a BAR might lie."""
DMA_BITS = 40
"""So many that an adapter in physical mode reaches all of RAM."""
FEATURES = frozenset({"second-adapter", "unchecked-frees", "physical-addressing"})


class FreeMemory:
    """What a guest can donate: it keeps the first 16 MiB of its RAM for itself."""

    KEPT = 16 << 20

    def __init__(self, *ram: Range) -> None:
        self._free = RangeSet()
        for item in ram:
            start = max(item.base, self.KEPT)
            self._free.add(Range(start, item.end - start))

    def take(self, size: int, alignment: int, lowest: int, highest: int) -> list[Range] | None:
        """Blocks of ``size`` bytes together, aligned ones if there are such; None if too few."""
        for step in (alignment, PAGE_SIZE):
            blocks = self._find(size, step, lowest, highest)
            if blocks is not None:
                for block in blocks:
                    self._free.remove(block)
                return blocks
        return None

    def give_back(self, blocks: Iterable[Range]) -> None:
        """Take back what ``take`` returned."""
        for block in blocks:
            self._free.add(block)

    def holds(self, item: Range) -> bool:
        """Whether all of ``item`` is here."""
        return self._free.contains(item)

    @property
    def total(self) -> int:
        """Bytes that are here."""
        return self._free.total

    def _find(self, size: int, step: int, lowest: int, highest: int) -> list[Range] | None:
        found: list[Range] = []
        for part in self._free.within(lowest, highest + 1):
            start, end = align_up(part.base, step), align_down(part.end, step)
            if start < end:
                taken = min(size, end - start)
                found.append(Range(start, taken))
                size -= taken
            if not size:
                return found
        return None


def create_structure(call: Call) -> CreatePhysicalMemoryObject:
    """The DDI's structure with the call's arguments; of the union, the member that Type names."""
    given = call.arguments
    args = CreatePhysicalMemoryObject()
    for name in ("hAdapter", "Size", "Context", "Type", "CacheType"):
        setattr(args, name, given.get(name, 0))
    members: dict[int, str] = {
        PhysicalMemoryType.MDL: "Mdl",
        PhysicalMemoryType.SECTION: "Section",
        PhysicalMemoryType.IO_SPACE: "IOSpace",
    }
    member = members.get(args.Type, "ContiguousMemory")
    for name, value in given.items():
        union, _, field = name.partition(".")
        if union == member:
            setattr(getattr(args, union), field, value)
    return args


def view_answer(
    call: Call, token: int, offset: int, size: int, cache: int, writable: bool
) -> Answer:
    """As the shim answers: the data lie where the view's start and Offset lead."""
    outputs = {
        "pMappedAddress": token,
        "Offset": call.arguments.get("Offset", 0) - offset,
        "Size": size,
    }
    return Answer(NtStatus.SUCCESS, outputs, cache=cache, writable=writable)


def save_area_of(call: Call) -> tuple[int, int]:
    """Whose save area a call is about: adapter and physical adapter."""
    return call.arguments.get("hAdapter", 0), call.arguments.get("PhysicalAdapterIndex", 0)
