"""Which place of which file is which guest-physical address.

Before the guest turns its IOMMU on, the hypervisor announces guest RAM at its
guest-physical addresses.  That shows the layout, and lets the commit check
tell whether a logical address leads to the page that the backend chose.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple, Protocol


class BackingFile(Protocol):
    """A file of guest memory, as the protocol library holds it."""

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode number."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from byte ``offset`` on."""

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` from byte ``offset`` on."""

    def release(self) -> object:
        """Give up one reference."""


class Place(NamedTuple):
    """A byte of a backing file, and how many bytes from it on are one RAM section."""

    backing: BackingFile
    offset: int
    contiguous: int


class _Section(NamedTuple):
    base: int
    size: int
    backing: BackingFile
    offset: int


class GuestRam:
    """The layout, learned section by section."""

    def __init__(self) -> None:
        self._sections: list[_Section] = []
        self._bases: list[int] = []

    def learn(self, base: int, size: int, backing: BackingFile, offset: int) -> None:
        """Guest-physical ``base`` and ``size`` bytes on are ``backing`` from ``offset`` on.

        Takes over one reference to ``backing``.
        """
        index = bisect.bisect_left(self._bases, base)
        self._sections.insert(index, _Section(base, size, backing, offset))
        self._bases.insert(index, base)

    def release(self) -> None:
        """Forget the layout and let go of its files."""
        for section in self._sections:
            section.backing.release()
        self._sections.clear()
        self._bases.clear()

    @property
    def known(self) -> bool:
        """Whether any RAM has been announced with a descriptor."""
        return bool(self._sections)

    @property
    def size(self) -> int:
        """Bytes of RAM known."""
        return sum(section.size for section in self._sections)

    @property
    def highest(self) -> int:
        """The last byte of RAM known; 0 if none is."""
        return self._sections[-1].base + self._sections[-1].size - 1 if self._sections else 0

    def locate(self, gpa: int) -> Place | None:
        """Where the byte at ``gpa`` lies, or None if no RAM is known there."""
        index = bisect.bisect_right(self._bases, gpa) - 1
        if index < 0:
            return None
        section = self._sections[index]
        into = gpa - section.base
        if into >= section.size:
            return None
        return Place(section.backing, section.offset + into, section.size - into)

    def contains(self, base: int, size: int) -> bool:
        """Whether every byte of the range is RAM."""
        end = base + size
        while base < end:
            place = self.locate(base)
            if place is None:
                return False
            base += place.contiguous
        return True

    def overlaps(self, base: int, size: int) -> bool:
        """Whether any byte of the range is RAM."""
        return any(
            section.base < base + size and base < section.base + section.size
            for section in self._sections
        )

    def gpa_of(self, identity: tuple[int, int], offset: int) -> int | None:
        """The guest-physical address of byte ``offset`` of a file, or None."""
        for section in self._sections:
            into = offset - section.offset
            if section.backing.identity == identity and 0 <= into < section.size:
                return section.base + into
        return None
