"""MSI-X, as a driver programs it: PCI Local Bus Specification 3.0, section 6.8.2."""

from __future__ import annotations

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.pci import PciFunction

_CAPABILITY = 0x11
_CONTROL, _TABLE = 2, 4  # offsets in the capability
_ENABLE = 1 << 15
_BAR_MASK = 7
_ENTRY = 16


class Msix:
    """The vector table of a function whose BARs are placed.

    A vector is a write of 32 bits anywhere: to guest memory too, where it can
    be seen without an interrupt controller.
    """

    def __init__(self, qtest: QtestClient, function: PciFunction) -> None:
        """Find the table."""
        self._qtest = qtest
        self._function = function
        self._capability = next(function.capabilities(_CAPABILITY), 0)
        if not self._capability:
            raise VmError("the function has no MSI-X.")
        where = function.read(self._capability + _TABLE, 4)
        self._table = function.bars[where & _BAR_MASK] + (where & ~_BAR_MASK)

    def enable(self) -> None:
        """Let the function send."""
        self._function.write(self._capability + _CONTROL, _ENABLE, 2)

    def set(self, vector: int, address: int, data: int) -> None:
        """Where a vector writes, and what; it is unmasked."""
        entry = self._table + _ENTRY * vector
        self._qtest.store(entry, address & 0xFFFF_FFFF, 4)
        self._qtest.store(entry + 4, address >> 32, 4)
        self._qtest.store(entry + 8, data, 4)
        self.mask(vector, False)

    def mask(self, vector: int, masked: bool) -> None:
        """Hold a vector back, or let it go."""
        self._qtest.store(self._table + _ENTRY * vector + 12, int(masked), 4)
