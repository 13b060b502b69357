"""Arithmetic on pages and on half-open ranges of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
LARGE_PAGE_SIZE = 2 << 20
"""The second leaf size of every IOMMU that we meet: one mapping instead of 512."""

ADDRESS_SPACE = 1 << 64


class Range(NamedTuple):
    """``size`` bytes from ``base`` on."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The first byte after the range."""
        return self.base + self.size


def align_down(value: int, alignment: int) -> int:
    """The largest multiple of ``alignment`` that is not above ``value``."""
    return value - value % alignment


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is not below ``value``."""
    return value + -value % alignment


def page_aligned(*values: int) -> bool:
    """Whether every value is a multiple of the page size."""
    return all(value % PAGE_SIZE == 0 for value in values)


def is_power_of_two(value: int) -> bool:
    """Whether ``value`` is 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def coalesce(ranges: Iterable[Range]) -> list[Range]:
    """Join neighbours in the order given: the order is meaning, so nothing is sorted."""
    joined: list[Range] = []
    for item in ranges:
        if joined and joined[-1].end == item.base:
            joined[-1] = Range(joined[-1].base, joined[-1].size + item.size)
        else:
            joined.append(item)
    return joined


def clip(runs: Sequence[Range], offset: int, size: int) -> Iterator[Range]:
    """The part of ``runs``, laid end to end, that covers ``size`` bytes from ``offset`` on."""
    position = 0
    for run in runs:
        low = max(offset, position)
        high = min(offset + size, position + run.size)
        if low < high:
            yield Range(run.base + low - position, high - low)
        position += run.size
        if position >= offset + size:
            return
