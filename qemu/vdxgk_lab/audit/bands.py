"""An axis for an address space of which little is used: the used parts, one above the other.

A band is a range of addresses; what lies between bands was never mapped, and
takes no room.  A band's height grows with the logarithm of its size, so that
one page and a gigabyte can be seen in one picture.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Addresses = npt.NDArray[np.uint64]
Interval = tuple[int, int]  # first address, and the first behind it

PAGE = 4096
DETAILED, COARSE = 10, 6
"""Bands at most, of each kind."""
_LEAST_GAP = 64 << 10
_DETAILED_WEIGHT = 3.0


@dataclass(frozen=True)
class Band:
    """Addresses [start, end), drawn from row `low` up to row `high`."""

    start: int
    end: int
    low: float
    high: float


def arrange(detailed: list[Interval], others: list[Interval], height: int) -> list[Band]:
    """Lay out bands of `height` rows in all, one row between two.

    What `detailed` covers gets more room than what only `others` do.
    """
    fine = _merged(detailed, DETAILED)
    rest = _merged(_without(others, fine), COARSE, _LEAST_GAP)
    # Merging may have covered a gap that has details in it.
    rest = _without(rest, fine)
    parts = sorted([(part, _DETAILED_WEIGHT) for part in fine] + [(part, 1.0) for part in rest])
    weights = [weight * (2 + np.log2((end - start) / PAGE + 1)) for (start, end), weight in parts]
    room = height - len(parts) + 1
    bands, row = [], 0.0
    for ((start, end), _), weight in zip(parts, weights, strict=True):
        size = max(room * weight / sum(weights), 1.0)
        bands.append(Band(start, end, row, row + size))
        row += size + 1
    return bands


def rows(bands: list[Band], addresses: Addresses) -> npt.NDArray[np.float64]:
    """Where addresses lie, each in a band."""
    starts = np.array([band.start for band in bands], np.uint64)
    sizes = np.array([band.end - band.start for band in bands], np.float64)
    lows = np.array([band.low for band in bands])
    heights = np.array([band.high - band.low for band in bands])
    which = np.clip(np.searchsorted(starts, addresses, "right") - 1, 0, len(bands) - 1)
    into = (addresses - starts[which]).astype(np.float64) / sizes[which]
    return np.asarray(lows[which] + np.minimum(into, 1.0) * heights[which])


def union(starts: Addresses, ends: Addresses) -> list[Interval]:
    """The ranges that intervals cover together, ascending; `ends` are the last addresses."""
    found: list[list[int]] = []
    order = np.argsort(starts)
    for start, last in zip(starts[order].tolist(), ends[order].tolist(), strict=True):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], last + 1)
        else:
            found.append([start, last + 1])
    return [(start, end) for start, end in found]


def _merged(intervals: list[Interval], most: int, least: int = _LEAST_GAP) -> list[Interval]:
    """The same, the smallest gaps closed until no more than `most` are left."""
    if not intervals:
        return []
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(intervals)]
    wide = sorted((gap for gap in gaps if gap >= least), reverse=True)[: most - 1]
    smallest = wide[-1] if wide else None
    merged = [intervals[0]]
    for gap, part in zip(gaps, intervals[1:], strict=True):
        if smallest is not None and gap >= smallest and len(merged) < most:
            merged.append(part)
        else:
            merged[-1] = (merged[-1][0], part[1])
    return merged


def _without(intervals: list[Interval], holes: list[Interval]) -> list[Interval]:
    found = []
    for start, end in intervals:
        position = start
        for low, high in holes:
            if high <= position or low >= end:
                continue
            if low > position:
                found.append((position, low))
            position = max(position, high)
        if position < end:
            found.append((position, end))
    return found
