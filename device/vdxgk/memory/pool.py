"""Guest-physical memory that the guest has donated, and who uses it.

The guest gives blocks; objects take pages.  The pool decides which pages, so
that it can honour every bound of MmAllocatePagesForMdlEx and
MmAllocateContiguousMemorySpecifyCache, and scatter an MDL's pages on purpose:
remapping has nothing to prove where the pages lie in a row anyway.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sortedcontainers import SortedList

from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.pages import (
    ADDRESS_SPACE,
    LARGE_PAGE_SIZE,
    PAGE_SIZE,
    Range,
    align_down,
    align_up,
    coalesce,
    page_aligned,
)
from vdxgk.memory.ranges import RangeSet


@dataclass(frozen=True, slots=True)
class Windows:
    """Where MmAllocatePagesForMdlEx searches: [low, high], then both ``skip`` further on, ...

    Bounds are inclusive byte addresses.  ``skip`` 0 means one window only.
    """

    low: int = 0
    high: int = ADDRESS_SPACE - 1
    skip: int = 0

    def upto(self, count: int, limit: int) -> Iterator[Range]:
        """The first ``count`` windows, as whole pages below ``limit``."""
        if self.skip and self.skip <= self.high - self.low + 1:
            # The windows touch: one long one.
            yield from Windows(self.low, self.high + (count - 1) * self.skip).upto(1, limit)
            return
        for index in range(count if self.skip else 1):
            start = align_up(self.low + index * self.skip, PAGE_SIZE)
            end = align_down(min(self.high + 1 + index * self.skip, limit), PAGE_SIZE)
            if start >= limit:
                return
            if start < end:
                yield Range(start, end - start)


class _Block:
    __slots__ = ("size", "used")

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0


class GuestMemoryPool:
    """The allocator.  It holds at most ``quota`` bytes in ``max_blocks`` blocks.

    ``seed`` makes the scattering repeatable.
    """

    MAX_WINDOWS = 1 << 16
    """How many windows of an MDL request are searched at most."""

    def __init__(self, quota: int, max_blocks: int, seed: int = 0) -> None:
        self.quota = quota
        self.max_blocks = max_blocks
        self._bases: SortedList[int] = SortedList()
        self._blocks: dict[int, _Block] = {}  # by base
        self._free = RangeSet()
        self.donated = 0
        """Bytes that the pool holds, used or not."""
        self.idle_bytes = 0
        """Bytes in blocks of which no page is used: what could go back to the guest."""
        self._random = random.Random(seed)

    @property
    def free_bytes(self) -> int:
        """Bytes that no object uses."""
        return self._free.total

    @property
    def free_ranges(self) -> Iterator[Range]:
        """What no object uses, ascending."""
        return iter(self._free)

    # ---- blocks come and go ------------------------------------------------

    def donate(self, blocks: Sequence[Range]) -> None:
        """Take ``blocks``, all or none.

        Raises Refused: STATUS_INVALID_PARAMETER for what is not whole pages,
        wraps, or overlaps what the pool has; STATUS_INSUFFICIENT_RESOURCES
        beyond the quotas.
        """
        accepted: list[Range] = []
        try:
            for block in blocks:
                if block.size == 0 or not page_aligned(*block) or block.end > ADDRESS_SPACE:
                    raise invalid(
                        f"donated block {block.base:#x}+{block.size:#x} is not whole pages"
                    )
                if self._overlaps_block(block):
                    raise invalid(f"donated block {block.base:#x} overlaps an earlier one")
                if self.donated + block.size > self.quota:
                    raise Refused(
                        NtStatus.INSUFFICIENT_RESOURCES,
                        f"donations are limited to {self.quota} bytes",
                    )
                if len(self._blocks) >= self.max_blocks:
                    raise Refused(
                        NtStatus.INSUFFICIENT_RESOURCES,
                        f"donations are limited to {self.max_blocks} blocks: donate larger ones",
                    )
                self._bases.add(block.base)
                self._blocks[block.base] = _Block(block.size)
                self._free.add(block)
                self.donated += block.size
                self.idle_bytes += block.size
                accepted.append(block)
        except Refused:
            for block in accepted:
                self._drop(block)
            raise

    def reclaim(self, reserve: int, limit: int) -> list[Range]:
        """Give up unused blocks, exactly as donated, until ``reserve`` idle bytes remain.

        At most ``limit`` blocks in one call.
        """
        excess = self.idle_bytes - reserve
        given: list[Range] = []
        for base in self._bases:
            if excess <= 0 or len(given) == limit:
                break
            block = self._blocks[base]
            if not block.used:
                given.append(Range(base, block.size))
                excess -= block.size
        for item in given:
            self._drop(item)
        return given

    def _overlaps_block(self, item: Range) -> bool:
        index = self._bases.bisect_left(item.end)
        if index == 0:
            return False
        base = self._bases[index - 1]
        return base + self._blocks[base].size > item.base

    def _drop(self, item: Range) -> None:
        """Let go of a block of which no page is used."""
        self._bases.remove(item.base)
        del self._blocks[item.base]
        self._free.remove(item)
        self.donated -= item.size
        self.idle_bytes -= item.size

    # ---- allocation --------------------------------------------------------

    def allocate_contiguous(
        self, size: int, low: int = 0, high: int = ADDRESS_SPACE - 1, boundary: int = 0
    ) -> Range | None:
        """One run of ``size`` bytes in [low, high] that crosses no multiple of ``boundary``.

        Aligned to 2 MiB where it is long enough and such a place is free, so
        that the IOMMU can use large leaves.  None if there is no such run.
        """
        alignments = (LARGE_PAGE_SIZE, PAGE_SIZE) if size >= LARGE_PAGE_SIZE else (PAGE_SIZE,)
        for alignment in alignments:
            base = self._first(size, low, high + 1, alignment, boundary)
            if base is not None:
                return self._take(Range(base, size))
        return None

    def allocate_aligned(self, size: int, alignment: int, windows: Windows) -> Range | None:
        """One run of ``size`` bytes at a multiple of ``alignment`` within a window."""
        limit = self._limit()
        count = min(self.MAX_WINDOWS, limit // windows.skip + 1) if windows.skip else 1
        for window in windows.upto(count, limit):
            base = self._first(size, window.base, window.end, alignment)
            if base is not None:
                return self._take(Range(base, size))
        return None

    def allocate_runs(self, size: int, windows: Windows) -> list[Range] | None:
        """``size`` bytes in as few runs as the free memory allows; None if it is too little."""
        eligible = self._eligible(size, windows)
        if eligible is None:
            return None
        # Whole large pages first: they cost the IOMMU least.
        eligible.sort(key=lambda run: (run.size < LARGE_PAGE_SIZE, -run.size))
        runs: list[Range] = []
        left = size
        for run in eligible:
            aligned = align_up(run.base, LARGE_PAGE_SIZE)
            start = aligned if aligned + min(left, LARGE_PAGE_SIZE) <= run.end else run.base
            taken = min(left, run.end - start)
            runs.append(self._take(Range(start, taken)))
            left -= taken
            if not left:
                return coalesce(runs)
        # Aligning cost what was missing: give up the alignment instead.
        for run in runs:
            self.free([run])
        return self._take_in_order(size, eligible)

    def allocate_scattered(self, size: int, windows: Windows) -> list[Range] | None:
        """``size`` bytes as single pages in random order; None if there are too few."""
        eligible = self._eligible(size, windows)
        if eligible is None:
            return None
        starts = list(itertools.accumulate((run.size // PAGE_SIZE for run in eligible), initial=0))
        pages: list[Range] = []
        for number in self._random.sample(range(starts[-1]), size // PAGE_SIZE):
            index = bisect.bisect_right(starts, number) - 1
            base = eligible[index].base + (number - starts[index]) * PAGE_SIZE
            pages.append(self._take(Range(base, PAGE_SIZE)))
        return coalesce(pages)

    def free(self, runs: Sequence[Range]) -> None:
        """Take back what an allocation returned."""
        for run in runs:
            self._free.add(run)
            self._account(run, -1)

    def _eligible(self, size: int, windows: Windows) -> list[Range] | None:
        """Free memory of as many windows, in order, as ``size`` bytes need."""
        limit = self._limit()
        count = 1
        while True:
            eligible = [
                part
                for window in windows.upto(count, limit)
                for part in self._free.within(window.base, window.end)
            ]
            if sum(part.size for part in eligible) >= size:
                return eligible
            past_the_end = not windows.skip or windows.low + count * windows.skip >= limit
            if past_the_end or count >= self.MAX_WINDOWS:
                return None
            count *= 2

    def _first(
        self, size: int, low: int, end: int, alignment: int = PAGE_SIZE, boundary: int = 0
    ) -> int | None:
        """Where ``size`` free bytes of [low, end) begin, the lowest place of all."""
        for start, length in self._free.within(low, end):
            base = start + -start % alignment
            if boundary and base // boundary != (base + size - 1) // boundary:
                base = align_up(align_up(base, boundary), alignment)
            if base + size <= start + length:
                return base
        return None

    def _limit(self) -> int:
        """The first address above every donated block."""
        if not self._blocks:
            return 0
        base = self._bases[-1]
        return base + self._blocks[base].size

    def _take_in_order(self, size: int, eligible: Sequence[Range]) -> list[Range]:
        runs: list[Range] = []
        for run in eligible:
            taken = min(size, run.size)
            runs.append(self._take(Range(run.base, taken)))
            size -= taken
            if not size:
                break
        return coalesce(runs)

    def _take(self, item: Range) -> Range:
        self._free.remove(item)
        self._account(item, 1)
        return item

    def _account(self, item: Range, sign: int) -> None:
        """Count the pages of ``item`` as used (1) or no longer used (-1) in their blocks."""
        position, size = item
        index = self._bases.bisect_right(position) - 1
        while size:
            base = self._bases[index]
            block = self._blocks[base]
            part = min(size, base + block.size - position)
            if not block.used:
                self.idle_bytes -= block.size
            block.used += sign * part
            if not block.used:
                self.idle_bytes += block.size
            position += part
            size -= part
            index += 1
