"""Curves: how many bytes were within reach at each moment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vdxgk_lab.audit.history import Class, Pieces

Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.uint64]

CELLS = 1 << 15
"""Ranges of memory that are looked at together."""


class Curve(NamedTuple):
    """A step function: from `times[i]` (nanoseconds) on it is `values[i]`, and 0 before."""

    times: Times
    values: Numbers

    @property
    def highest(self) -> int:
        """Its greatest value."""
        return int(self.values.max(initial=0))

    def at(self, time: int) -> int:
        """Its value at a time."""
        index = int(np.searchsorted(self.times, np.uint64(time), "right")) - 1
        return int(self.values[index]) if index >= 0 else 0

    def highest_between(self, start: int, end: int) -> int:
        """Its greatest value in [start, end)."""
        inside = self.values[(self.times >= start) & (self.times < end)]
        return max(self.at(start), int(inside.max(initial=0)))


def mappings(pieces: Pieces) -> Curve:
    """How many pieces were mapped."""
    return _steps(
        np.concatenate([pieces["born"], pieces["died"]]),
        np.repeat(np.array([1, -1], np.int64), len(pieces)),
    )


def memory(pieces: Pieces) -> Curve:
    """How many bytes of the client's memory were reached: each once, however often mapped."""
    pieces = pieces[(pieces["kind"] != Class.OPAQUE) & (pieces["born"] < pieces["died"])]
    starts = places(pieces)
    ends = starts + (pieces["last"] - pieces["first"]) + np.uint64(1)
    borders = np.unique(np.concatenate([starts, ends]))
    sizes = np.diff(borders).astype(np.int64)
    low, high = np.searchsorted(borders, starts), np.searchsorted(borders, ends)
    times, changes = [], []
    # A piece may cover all cells: some of them at a time bound what that takes.
    for first in range(0, len(sizes), CELLS):
        there = np.flatnonzero((low < first + CELLS) & (high > first))
        found = _cells(pieces[there], low[there], high[there], sizes, first)
        times.append(found[0])
        changes.append(found[1])
    if not times:
        return Curve(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    return _steps(np.concatenate(times), np.concatenate(changes))


def _cells(
    pieces: Pieces, low: Numbers, high: Numbers, sizes: Numbers, first: int
) -> tuple[Times, Numbers]:
    """When cells [first, first + CELLS) came within reach, and when they went."""
    low, high = np.maximum(low, first), np.minimum(high, first + CELLS)
    counts = high - low
    piece = np.repeat(np.arange(len(pieces)), counts)
    cell = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts) + low[piece]
    cells = np.concatenate([cell, cell])
    times = np.concatenate([pieces["born"][piece], pieces["died"][piece]])
    change = np.repeat(np.array([1, -1], np.int64), len(piece))
    # Cell after cell; what takes another's place comes after that went.
    order = np.lexsort((change, times, cells))
    cells, times, change = cells[order], times[order], change[order]
    users = np.cumsum(change)  # 0 again at the end of each cell
    comes = (change > 0) & (users == 1)
    goes = (change < 0) & (users == 0)
    changes = np.where(comes, sizes[cells], -sizes[cells])
    return times[comes | goes], changes[comes | goes]


def places(pieces: Pieces) -> npt.NDArray[np.uint64]:
    """A number for the first byte of each piece: the same byte of memory, the same number."""
    unplaced = (
        np.uint64(1 << 63)
        | pieces["client"].astype(np.uint64) << np.uint64(57)
        | pieces["file"].astype(np.uint64) << np.uint64(47)
    ) + pieces["offset"]
    return np.where(pieces["kind"] == Class.UNPLACED, unplaced, pieces["physical"])


def _steps(times: npt.NDArray[np.uint64], changes: Numbers) -> Curve:
    order = np.argsort(times, kind="stable")
    times, values = times[order], np.cumsum(changes[order])
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, bool)
    return Curve(times[last], values[last].astype(np.int64))
