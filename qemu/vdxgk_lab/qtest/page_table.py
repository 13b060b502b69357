"""Radix page tables in guest memory: 512 entries of 8 bytes, 9 address bits a level.

VT-d and AMD-Vi share the shape; an Encoding holds the bits.
"""

from __future__ import annotations

from typing import Protocol

from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames

_BITS = 9
_ENTRY = 8


class Encoding(Protocol):
    """The bits of an entry.  Level 1 is the lowest."""

    def directory(self, address: int, level: int) -> int:
        """An entry of a table of `level` that points to the next table."""

    def leaf(self, address: int, level: int, access: Access) -> int:
        """An entry of a table of `level` that ends the walk."""


class PageTable:
    """Grows as ranges are set; directories stay when ranges are cleared."""

    def __init__(self, qtest: QtestClient, frames: Frames, levels: int, encoding: Encoding) -> None:
        """Make an empty top table, of level `levels`."""
        self._qtest = qtest
        self._frames = frames
        self._levels = levels
        self._encoding = encoding
        self.root = frames.take()
        # Tables by level and the address bits above them: nothing is read back.
        self._tables = {(levels, 0): self.root}

    def set(self, logical: int, physical: int, size: int, access: Access, leaf: int) -> None:
        """Write the leaves of a range; all of it is a multiple of `leaf`.

        A directory that a larger leaf replaces is forgotten.
        """
        level = level_of(leaf)
        for offset in range(0, size, leaf):
            entry = self._encoding.leaf(physical + offset, level, access)
            self._forget(logical + offset, level)
            self._qtest.store(self.slot(logical + offset, level), entry, _ENTRY)

    def clear(self, logical: int, size: int, leaf: int) -> None:
        """Clear the entries of the level at which `leaf` is one entry."""
        level = level_of(leaf)
        for offset in range(0, size, leaf):
            self._forget(logical + offset, level)
            self._qtest.store(self.slot(logical + offset, level), 0, _ENTRY)

    def slot(self, logical: int, level: int) -> int:
        """Where the entry of a logical address lies; tables above it are made."""
        table = self.root
        for above in range(self._levels, level, -1):
            table = self._next(logical, above, table)
        return self._entry(table, logical, level)

    def _next(self, logical: int, level: int, table: int) -> int:
        key = (level - 1, logical >> shift(level))
        if key not in self._tables:
            self._tables[key] = self._frames.take()
            entry = self._encoding.directory(self._tables[key], level)
            self._qtest.store(self._entry(table, logical, level), entry, _ENTRY)
        return self._tables[key]

    def _forget(self, logical: int, level: int) -> None:
        """Drop every table below an entry that is about to be overwritten."""
        below = logical >> shift(level)
        for key in [key for key in self._tables if key[0] < level]:
            if key[1] >> _BITS * (level - 1 - key[0]) == below:
                del self._tables[key]

    @staticmethod
    def _entry(table: int, logical: int, level: int) -> int:
        return table + (logical >> shift(level)) % (1 << _BITS) * _ENTRY


class TableIommu:
    """What IOMMUs that walk tables in guest memory have in common.  See Iommu."""

    table: PageTable

    def invalidate(self, logical: int, size: int) -> None:
        """Tell the hardware about a range, by one invalidation."""
        raise NotImplementedError

    def map(
        self, logical: int, physical: int, size: int, access: Access = Access.BOTH, leaf: int = PAGE
    ) -> None:
        """See Iommu."""
        self.table.set(logical, physical, size, access, leaf)
        self.invalidate(logical, size)

    def unmap(self, logical: int, size: int, leaf: int = PAGE) -> None:
        """See Iommu.  `leaf` tells at which level entries are cleared."""
        self.table.clear(logical, size, leaf)
        self.invalidate(logical, size)


class CommandQueue:
    """A page of commands for the hardware, and a word in which it says that it is done."""

    def __init__(self, qtest: QtestClient, frames: Frames) -> None:
        """Take the memory; nobody is told."""
        self._qtest = qtest
        self.address, self.status = frames.take(), frames.take()
        self._tail = 0

    def put(self, *commands: bytes) -> int:
        """Write commands, of one size, and clear the word; answers the new tail in bytes."""
        self._qtest.store(self.status, 0, 8)
        for command in commands:
            self._qtest.write(self.address + self._tail, command)
            self._tail = (self._tail + len(command)) % PAGE
        return self._tail

    @property
    def done(self) -> bool:
        """Whether the hardware wrote 1 to the word."""
        return self._qtest.load(self.status, 8) == 1


def shift(level: int) -> int:
    """The number of address bits below an entry of a table of `level`."""
    return PAGE.bit_length() - 1 + _BITS * (level - 1)


def level_of(leaf: int) -> int:
    """The level of the tables in which one entry covers `leaf` bytes."""
    level = (leaf.bit_length() - PAGE.bit_length()) // _BITS + 1
    if leaf != 1 << shift(level):
        raise ValueError(f"no level has leaves of {leaf:#x} bytes")
    return level
