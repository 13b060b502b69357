"""A set of addresses, kept as maximal half-open ranges."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedDict

from vdxgk.memory.pages import Range


class RangeSet:
    """Disjoint, non-adjacent ranges in ascending order.

    Adding joins neighbours; removing splits.  Both take time logarithmic in
    the number of ranges.
    """

    def __init__(self) -> None:
        self._ends: SortedDict[int, int] = SortedDict()  # start -> end
        self.total = 0

    def overlaps(self, item: Range) -> bool:
        """Whether any address of ``item`` is in the set."""
        index = self._ends.bisect_left(item.end)
        return index > 0 and self._ends.peekitem(index - 1)[1] > item.base

    def contains(self, item: Range) -> bool:
        """Whether every address of ``item`` is in the set."""
        index = self._ends.bisect_right(item.base)
        return index > 0 and self._ends.peekitem(index - 1)[1] >= item.end

    def add(self, item: Range) -> None:
        """Add a range of which no address is in the set yet; ValueError otherwise."""
        start, end = item.base, item.end
        # The ranges just below and above; neither may reach into this one.
        index = self._ends.bisect_left(end)
        below, reach = self._ends.peekitem(index - 1) if index > 0 else (start, 0)
        if reach > start or below > start:
            raise ValueError(f"{item.base:#x}+{item.size:#x} overlaps the set")
        end = self._ends.pop(end, end)
        if reach == start:
            start = below
        self._ends[start] = end
        self.total += item.size

    def remove(self, item: Range) -> None:
        """Remove a range of which every address is in the set; ValueError otherwise."""
        index = self._ends.bisect_right(item.base)
        start, end = self._ends.peekitem(index - 1) if index > 0 else (0, 0)
        if end < item.end:
            raise ValueError(f"{item.base:#x}+{item.size:#x} is not in the set")
        if start < item.base:
            self._ends[start] = item.base
        else:
            del self._ends[start]
        if item.end < end:
            self._ends[item.end] = end
        self.total -= item.size

    def within(self, low: int, high: int) -> Iterator[Range]:
        """The parts of the set in [low, high), ascending. Do not modify meanwhile."""
        index = max(self._ends.bisect_right(low) - 1, 0)
        for start in self._ends.islice(index):
            if start >= high:
                return
            clipped_start = max(start, low)
            clipped_end = min(self._ends[start], high)
            if clipped_start < clipped_end:
                yield Range(clipped_start, clipped_end - clipped_start)

    def __iter__(self) -> Iterator[Range]:
        for start, end in self._ends.items():
            yield Range(start, end - start)

    def __len__(self) -> int:
        return len(self._ends)
