"""Intel VT-d, interrupt remapping: the driver's part.

Intel Virtualization Technology for Directed I/O, revision 4, sections 5.1,
9.10 and 11.4.9.
"""

from __future__ import annotations

from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import Frames
from vdxgk_lab.qtest.vtd import RegisterBlock

IRTA = 0xB8
INTERRUPT_REMAPPING_ENABLE = 1 << 25
SET_TABLE = 1 << 24
COMPATIBILITY_FORMAT = 1 << 23
"""GCMD and GSTS, 11.4.4."""

ENTRY_NOT_PRESENT = 0x22
WRONG_SOURCE = 0x26
"""Fault reasons, table 29."""

_256_ENTRIES = 7
_ENTRY = 16
_INVALIDATE_CACHE = 4
_VERIFY_SOURCE = 1 << 18
_REMAPPABLE = 1 << 4
_MESSAGES = 0xFEE0_0000


class InterruptRemapping:
    """A table of 256 entries; interrupts go to processor 0."""

    def __init__(self, qtest: QtestClient, frames: Frames, registers: RegisterBlock) -> None:
        """Make an empty table; nothing is remapped yet."""
        self._qtest = qtest
        self._registers = registers
        self._table = frames.take()

    def enable(self) -> None:
        """Remap, and block messages in the old format.  Queued invalidation must be on."""
        self._registers.store(IRTA, self._table | _256_ENTRIES, 8)
        self._registers.command(SET_TABLE, True)
        self._invalidate()
        self._registers.command(INTERRUPT_REMAPPING_ENABLE, True)

    def disable(self) -> None:
        """Remap no more."""
        self._registers.command(INTERRUPT_REMAPPING_ENABLE, False)

    def set(self, index: int, vector: int, requester: int) -> None:
        """Let an entry lead to a vector of processor 0, for one function only."""
        entry = self._table + _ENTRY * index
        self._qtest.store(entry + 8, requester | _VERIFY_SOURCE, 8)
        self._qtest.store(entry, vector << 16 | 1, 8)
        self._invalidate()

    def clear(self, index: int) -> None:
        """Take an entry away."""
        self._qtest.store(self._table + _ENTRY * index, 0, 8)
        self._invalidate()

    @staticmethod
    def address(index: int) -> int:
        """Where a function writes to use an entry; what it writes is 0."""
        return _MESSAGES | index << 5 | _REMAPPABLE

    def _invalidate(self) -> None:
        self._registers.submit(_INVALIDATE_CACHE, 0)


COMPATIBLE = _MESSAGES
"""Where a function writes a vector for processor 0, if messages are not remapped."""
