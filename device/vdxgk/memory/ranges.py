"""A set of addresses, kept as maximal half-open ranges."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

from vdxgk.memory.pages import Range


class RangeSet:
    """Disjoint, non-adjacent ranges in ascending order.

    Adding joins neighbours; removing splits.  Both take time logarithmic in
    the number of ranges.  A range is known by its end, so that taking from
    its beginning, as a first fit does, moves nothing.
    """

    def __init__(self) -> None:
        self._ends: SortedList[int] = SortedList()
        self._starts: dict[int, int] = {}  # by end
        self.total = 0

    def overlaps(self, item: Range) -> bool:
        """Whether any address of ``item`` is in the set."""
        above = self._above(item.base)
        return above is not None and self._starts[above] < item.end

    def contains(self, item: Range) -> bool:
        """Whether every address of ``item`` is in the set."""
        end = self._above(item.base)
        return end is not None and self._starts[end] <= item.base and item.end <= end

    def add(self, item: Range) -> None:
        """Add a range of which no address is in the set yet; ValueError otherwise."""
        base, size = item
        end = base + size
        above = self._above(base)
        if above is not None:
            start = self._starts[above]
            if start < end:
                raise ValueError(f"{base:#x}+{size:#x} overlaps the set")
            if start == end:
                end = above
        below = self._starts.pop(base, base)
        if below != base:
            self._ends.remove(base)
        if end != above:
            self._ends.add(end)
        self._starts[end] = below
        self.total += size

    def remove(self, item: Range) -> None:
        """Remove a range of which every address is in the set; ValueError otherwise."""
        base, size = item
        end = base + size
        reach = self._above(base)
        if reach is None or self._starts[reach] > base or end > reach:
            raise ValueError(f"{base:#x}+{size:#x} is not in the set")
        start = self._starts[reach]
        if end < reach:
            self._starts[reach] = end
        else:
            del self._starts[reach]
            self._ends.remove(reach)
        if start < base:
            self._starts[base] = start
            self._ends.add(base)
        self.total -= size

    def within(self, low: int, high: int) -> Iterator[Range]:
        """The parts of the set in [low, high), ascending. Do not modify meanwhile."""
        for end in self._ends.irange(low, inclusive=(False, True)):
            start = self._starts[end]
            if start >= high:
                return
            base = max(start, low)
            yield Range(base, min(end, high) - base)

    def _above(self, address: int) -> int | None:
        """The end of the first range that does not lie below ``address`` altogether."""
        index = self._ends.bisect_right(address)
        return self._ends[index] if index < len(self._ends) else None

    def __iter__(self) -> Iterator[Range]:
        for end in self._ends:
            start = self._starts[end]
            yield Range(start, end - start)

    def __len__(self) -> int:
        return len(self._ends)
