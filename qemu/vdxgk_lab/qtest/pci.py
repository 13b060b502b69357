"""PCI functions on bus 0, as firmware and drivers program them.

Configuration access mechanism #1, and the register names of the PCI Local
Bus Specification 3.0, chapter 6.
"""

from __future__ import annotations

from collections.abc import Iterator

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient

COMMAND = 0x04
STATUS = 0x06
BAR0 = 0x10
CAPABILITIES_POINTER = 0x34
COMMAND_MEMORY = 0x2
COMMAND_BUS_MASTER = 0x4
STATUS_CAPABILITIES = 0x10

_ADDRESS_PORT = 0xCF8
_DATA_PORT = 0xCFC
_ENABLE = 1 << 31
_64BIT = 0x4
_MAX_CAPABILITIES = 48  # more than fit 192 bytes: the list is a loop


class MmioWindow:
    """Hands out addresses for BARs, from where q35 has neither RAM nor registers."""

    def __init__(self, start: int = 0xC000_0000, end: int = 0xE000_0000) -> None:
        """Guest-physical bounds."""
        self._next = start
        self._end = end

    def take(self, size: int) -> int:
        """A naturally aligned range; `size` is a power of two."""
        address = (self._next + size - 1) & -size
        self._next = address + size
        if self._next > self._end:
            raise VmError(f"no room for a BAR of {size:#x} bytes.")
        return address


class PciFunction:
    """One function: `slot` 0 to 31, `function` 0 to 7."""

    def __init__(self, qtest: QtestClient, slot: int, function: int = 0) -> None:
        """Touch nothing yet."""
        self._qtest = qtest
        self.requester = slot << 3 | function
        """The requester ID: bus 0, so that it is the devfn."""
        self.bars: dict[int, int] = {}
        """Where `place_bar` put them."""

    def read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space."""
        self._select(offset)
        return self._qtest.port_in(_DATA_PORT + offset % 4, size)

    def write(self, offset: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space."""
        self._select(offset)
        self._qtest.port_out(_DATA_PORT + offset % 4, value, size)

    def command(self, value: int) -> None:
        """Set the command register (COMMAND_*)."""
        self.write(COMMAND, value, 2)

    def place_bar(self, index: int, window: MmioWindow) -> int:
        """Size a memory BAR (section 6.2.5.1) and give it an address, which is answered."""
        register = BAR0 + 4 * index
        kind = self.read(register, 4) & 0xF
        self.write(register, 0xFFFF_FFFF, 4)
        mask = self.read(register, 4) & 0xFFFF_FFF0
        if not mask:
            raise VmError(f"BAR {index} is not there.")
        address = window.take((~mask & 0xFFFF_FFFF) + 1)
        self.write(register, address, 4)
        if kind & _64BIT:
            self.write(register + 4, 0, 4)
        self.bars[index] = address
        return address

    def capabilities(self, wanted: int) -> Iterator[int]:
        """The offsets of the capabilities with ID `wanted`, in list order."""
        if not self.read(STATUS, 2) & STATUS_CAPABILITIES:
            return
        offset = self.read(CAPABILITIES_POINTER, 1) & ~3
        for _ in range(_MAX_CAPABILITIES):
            if not offset:
                return
            if self.read(offset, 1) == wanted:
                yield offset
            offset = self.read(offset + 1, 1) & ~3
        raise VmError("the capability list has no end.")

    def _select(self, offset: int) -> None:
        address = _ENABLE | self.requester << 8 | (offset & 0xFC)
        self._qtest.port_out(_ADDRESS_PORT, address, 4)
