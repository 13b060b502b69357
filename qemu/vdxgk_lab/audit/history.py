"""From events to pieces: what was mapped, where, from when to when.

A piece is a range of logical addresses with one place and one access for the
whole of its life.  Drawn over time it is a rectangle, and all rectangles
together are what the device could reach.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyvfio_user.addresses import SortedAddresses
from vdxgk.audit.records import Kind
from vdxgk_lab.audit.log import AuditLog

Pieces = npt.NDArray[Any]

BOTH_ACCESSES = 3


class Fate(enum.IntEnum):
    """How a piece ended."""

    UNMAPPED = 0
    REPLACED = 1
    """Another mapping took its place."""
    DISCONNECTED = 2
    """The client went: nobody unmapped it."""
    MAPPED = 3
    """It was there when the log ended."""


class Class(enum.IntEnum):
    """Where a piece leads."""

    IDENTITY = 0
    """To guest RAM at the same address: nothing is translated."""
    TRANSLATED = 1
    """To guest RAM at another address."""
    UNPLACED = 2
    """To memory of the client's whose guest-physical address is not known."""
    OPAQUE = 3
    """The client sent no descriptor: ROMs and BARs, mostly."""


PIECE = np.dtype(
    [
        ("first", "<u8"),  # logical addresses, both within
        ("last", "<u8"),
        ("born", "<u8"),  # nanoseconds of CLOCK_MONOTONIC
        ("died", "<u8"),
        ("offset", "<u8"),  # in its file
        ("physical", "<u8"),  # guest-physical address of `first`; see `kind`
        ("file", "<u2"),
        ("client", "<u2"),  # number of the connection
        ("access", "u1"),  # 1 read, 2 write
        ("fate", "u1"),
        ("kind", "u1"),  # Class
    ]
)


class Section(NamedTuple):
    """Guest RAM: `size` bytes from guest-physical `base` on are `file` from `offset` on."""

    base: int
    size: int
    file: int
    offset: int


@dataclass
class History:
    """All pieces of a log, in the order of their ends; and what is known of guest RAM."""

    pieces: Pieces
    layouts: dict[int, list[Section]]
    """By number of the connection, from 1 on."""

    def ram(self, client: int) -> int:
        """Bytes of guest RAM of a client."""
        return sum(section.size for section in self.layouts.get(client, ()))

    def alive(self, time: int) -> Pieces:
        """What was mapped at a time, by address."""
        found = self.pieces[(self.pieces["born"] <= time) & (time < self.pieces["died"])]
        return found[np.argsort(found["first"], kind="stable")]


class _Live(NamedTuple):
    last: int
    access: int
    file: int
    offset: int
    born: int


@dataclass
class _Replay:
    """The mappings of one client at a moment: what overlaps is cut, as the device's table does."""

    client: int = 0
    live: dict[int, _Live] = field(default_factory=dict)
    starts: SortedAddresses = field(default_factory=SortedAddresses)
    ended: list[tuple[int, ...]] = field(default_factory=list)
    learning: bool = False
    layouts: dict[int, list[Section]] = field(default_factory=dict)

    def map(self, first: int, piece: _Live) -> None:
        self.remove(first, piece.last, piece.born, Fate.REPLACED)
        self._insert(first, piece)
        if self.learning and piece.file and piece.access == BOTH_ACCESSES:
            size = piece.last - first + 1
            self.layouts[self.client].append(Section(first, size, piece.file, piece.offset))

    def remove(self, first: int, last: int, time: int, fate: Fate) -> None:
        exact = self.live.get(first)
        if exact is not None and exact.last == last:
            self._end(first, exact, time, fate)
            self._forget(first)
            return
        for start in self._overlapping(first, last):
            piece = self.live[start]
            self._forget(start)
            if start < first:
                self._insert(start, piece._replace(last=first - 1))
            if piece.last > last:
                offset = piece.offset + (last + 1 - start if piece.file else 0)
                self._insert(last + 1, piece._replace(offset=offset))
            low, high = max(start, first), min(piece.last, last)
            offset = piece.offset + (low - start if piece.file else 0)
            self._end(low, piece._replace(last=high, offset=offset), time, fate)

    def remove_all(self, time: int, fate: Fate) -> None:
        for start in self.starts:
            self._end(start, self.live[start], time, fate)
        self.live.clear()
        self.starts.clear()

    def _overlapping(self, first: int, last: int) -> list[int]:
        nearest = self.starts.last_before(last + 1)
        if nearest is None or self.live[nearest].last < first:
            return []  # and so end all before it: they are disjoint
        found = self.starts.between(first, last + 1)
        before = self.starts.last_before(first)
        if before is not None and self.live[before].last >= first:
            found.insert(0, before)
        return found

    def _insert(self, first: int, piece: _Live) -> None:
        self.live[first] = piece
        self.starts.add(first)

    def _forget(self, first: int) -> None:
        del self.live[first]
        self.starts.remove(first)

    def _end(self, first: int, piece: _Live, time: int, fate: Fate) -> None:
        row = (first, piece.last, piece.born, time, piece.offset, 0, piece.file, self.client)
        self.ended.append((*row, piece.access, fate, 0))


def replay(log: AuditLog) -> History:
    """Go through a log."""
    state = _Replay()
    columns = ("time", "kind", "access", "file", "first", "last", "offset")
    rows = zip(*(log.records[name].tolist() for name in columns), strict=True)
    for time, kind, access, file, first, last, offset in rows:
        match kind:
            case Kind.MAPPED:
                state.map(first, _Live(last, access, file, offset, time))
            case Kind.UNMAPPED:
                state.remove(first, last, time, Fate.UNMAPPED)
            case Kind.CONNECTED:
                state.client += 1
                state.layouts[state.client] = []
                state.learning = True
            case Kind.DESCRIBED:
                state.learning = False
            case Kind.DISCONNECTED:
                state.remove_all(time, Fate.DISCONNECTED)
    state.remove_all(log.end, Fate.MAPPED)
    pieces = np.array(state.ended, PIECE)
    layouts = {client: list(dict.fromkeys(found)) for client, found in state.layouts.items()}
    for client, layout in layouts.items():
        _place(pieces, client, layout)
    return History(pieces, layouts)


def _place(pieces: Pieces, client: int, layout: list[Section]) -> None:
    """Find guest-physical addresses.  A piece lies in one section, for so QEMU cuts them."""
    ours = pieces["client"] == client
    pieces["kind"][ours] = np.where(pieces["file"][ours] == 0, Class.OPAQUE, Class.UNPLACED)
    for section in layout:
        into = pieces["offset"] - np.uint64(section.offset)  # wraps below the section
        inside = ours & (pieces["file"] == section.file) & (into < section.size)
        pieces["physical"][inside] = into[inside] + np.uint64(section.base)
        same = pieces["physical"][inside] == pieces["first"][inside]
        pieces["kind"][inside] = np.where(same, Class.IDENTITY, Class.TRANSLATED)
