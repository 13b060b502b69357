"""Curves: how many bytes were within reach at each moment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vdxgk_lab.audit.history import Class, Pieces

Numbers = npt.NDArray[np.int64]
Times = npt.NDArray[np.uint64]


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
    pieces = pieces[pieces["kind"] != Class.OPAQUE]
    starts = places(pieces)
    ends = starts + (pieces["last"] - pieces["first"]) + np.uint64(1)
    borders = np.unique(np.concatenate([starts, ends]))
    sizes = np.diff(borders).astype(np.int64)
    low, high = np.searchsorted(borders, starts), np.searchsorted(borders, ends)
    times = np.concatenate([pieces["born"], pieces["died"]])
    # What takes another's place comes after it went.
    order = np.lexsort((np.repeat([1, 0], len(pieces)), times))
    changes = np.zeros(len(order), np.int64)
    users = np.zeros(len(sizes), np.int64)
    lows, highs = low.tolist(), high.tolist()
    count = len(pieces)
    for position, index in enumerate(order.tolist()):
        born = index < count
        piece = index if born else index - count
        start, end = lows[piece], highs[piece]
        if not born:
            users[start:end] -= 1
        unused = users[start:end] == 0
        changed = int(sizes[start:end][unused].sum())
        if born:
            users[start:end] += 1
        changes[position] = changed if born else -changed
    return _steps(times[order], changes)


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
