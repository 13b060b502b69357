"""The logical address space of one adapter: where lists appear to the device."""

from __future__ import annotations

from collections.abc import Iterable

from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.pages import ADDRESS_SPACE, PAGE_SIZE, Range, align_up
from vdxgk.memory.ranges import RangeSet

MSI_WINDOW = Range(0xFEE00000, 0x100000)
"""Where x86 IOMMUs see interrupts instead of memory (VT-d specification, 3.14)."""


class LogicalAddressSpace:
    """Hands out logical ranges between ``start`` and ``end``, both inclusive.

    Unmapped guard space lies on both sides of every range, so that an overrun
    faults.  A freed range is not used again until the space has been walked
    through once, so that a stale address faults too.  ``reserved`` is never
    handed out, nor is the MSI window.
    """

    GUARD = 64 << 10
    """Bytes between ranges; a multiple of the page size."""

    FLOOR = 64 << 20
    """Where allocation starts if the space is large: small numbers are what bugs produce."""

    def __init__(self, start: int, end: int, reserved: Iterable[Range] = ()) -> None:
        floor = self.FLOOR if end >= 16 * self.FLOOR else 16 * PAGE_SIZE
        self.start = max(align_up(start, PAGE_SIZE), floor)
        self.end = end
        self._free = RangeSet()
        if self.start <= end:
            self._free.add(Range(self.start, (end + 1 - self.start) & ~(PAGE_SIZE - 1)))
        self.reserved = (MSI_WINDOW, *reserved)
        for item in self.reserved:
            self._exclude(item)
        self._next = self.start

    @property
    def free_bytes(self) -> int:
        """Bytes in no list and in no guard."""
        return self._free.total

    def reserve(self, size: int, alignment: int, phase: int, runs: Iterable[Range]) -> int:
        """A base for ``size`` bytes, with base % alignment == phase.

        No page of the list lies at a logical address that equals its
        guest-physical address in ``runs`` (in list order).  Raises Refused
        with STATUS_INSUFFICIENT_RESOURCES if no range is left.
        """
        equal: set[int] = set()
        offset = 0
        for run in runs:
            equal.add(run.base - offset)
            offset += run.size
        for low, high in ((self._next, self.end + 1), (self.start, self.end + 1)):
            for hole in self._free.within(low, high):
                base = hole.base + self.GUARD
                base += (phase - base) % alignment
                while base in equal:
                    base += alignment
                if base + size + self.GUARD <= hole.end:
                    self._free.remove(self._with_guards(base, size))
                    self._next = base + size + self.GUARD
                    return base
        raise Refused(
            NtStatus.INSUFFICIENT_RESOURCES,
            f"no {size:#x} bytes of logical addresses are left below {self.end + 1:#x}",
        )

    def release(self, base: int, size: int) -> None:
        """Take back what ``reserve`` returned."""
        self._free.add(self._with_guards(base, size))

    def _with_guards(self, base: int, size: int) -> Range:
        return Range(base - self.GUARD, size + 2 * self.GUARD)

    def _exclude(self, item: Range) -> None:
        end = min(align_up(item.end, PAGE_SIZE), ADDRESS_SPACE)
        for part in list(self._free.within(item.base & ~(PAGE_SIZE - 1), end)):
            self._free.remove(part)
