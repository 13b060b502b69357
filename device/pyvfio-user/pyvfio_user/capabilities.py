"""Capabilities of a PCI function.

Sections without a name are those of the PCI Local Bus Specification 3.0.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .pci import BARS


class MsixCapability:
    """MSI-X (PCI Local Bus Specification 3.0, section 6.8.2).

    The client keeps the table and does the masking; the device keeps the room
    for table and pending bits in its BARs.
    """

    capability_id = 0x11
    table_entry_size = 16

    def __init__(
        self, vectors: int, table_bar: int, table_offset: int, pba_bar: int, pba_offset: int
    ) -> None:
        """`vectors` from 1 to 2048; offsets in bytes, multiples of 8.

        Raises ValueError for a value out of range.
        """
        if not 1 <= vectors <= 2048:
            raise ValueError(f"{vectors} MSI-X vectors")
        for bar, offset in ((table_bar, table_offset), (pba_bar, pba_offset)):
            if not 0 <= bar < BARS or offset % 8 or not 0 <= offset < 1 << 32:
                raise ValueError(f"MSI-X structure in BAR {bar} at {offset:#x}")
        self.vectors = vectors
        self.table_bar = table_bar
        self.table_offset = table_offset
        self.pba_bar = pba_bar
        self.pba_offset = pba_offset

    def body(self) -> bytes:
        """Message control, table offset and BIR, pending bits offset and BIR."""
        return struct.pack(
            "<HII",
            self.vectors - 1,
            self.table_offset | self.table_bar,
            self.pba_offset | self.pba_bar,
        )

    def write_mask(self) -> bytes:
        """MSI-X enable and function mask."""
        return struct.pack("<H", 0xC000)

    def check(self, sizes: Sequence[int]) -> None:
        """Check that table and pending bits lie within BARs of these sizes (0: absent).

        Raises ValueError.
        """
        table_end = self.table_offset + self.vectors * self.table_entry_size
        pba_end = self.pba_offset + (self.vectors + 63) // 64 * 8
        if table_end > sizes[self.table_bar] or pba_end > sizes[self.pba_bar]:
            raise ValueError("the MSI-X table or its pending bits lie outside their BAR")


class VendorCapability:
    """Vendor-specific (PCI Local Bus Specification 3.0, appendix H): ID, next, length, body."""

    capability_id = 0x09

    def __init__(self, body: bytes) -> None:
        """`body` follows the length byte; read-only for the guest."""
        self._body = bytes(body)

    def body(self) -> bytes:
        """Return the length of the whole capability, then the body."""
        return bytes([len(self._body) + 3]) + self._body

    def write_mask(self) -> bytes:
        """Nothing can be written."""
        return b""


class MsiCapability:
    """MSI with 64-bit addresses, without masking for each vector (section 6.8.1)."""

    capability_id = 0x05

    def __init__(self, vectors: int) -> None:
        """`vectors` is 1, 2, 4, 8, 16 or 32.  Raises ValueError."""
        if vectors not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"{vectors} MSI vectors")
        self.vectors = vectors

    def body(self) -> bytes:
        """Message control, address, data."""
        capable = self.vectors.bit_length() - 1
        return struct.pack("<HQH", capable << 1 | 0x80, 0, 0)

    def write_mask(self) -> bytes:
        """Enable and number of vectors enabled; address; data."""
        return struct.pack("<HQH", 0x0071, 0xFFFF_FFFF_FFFF_FFFC, 0xFFFF)


class PowerManagementCapability:
    """D0 and D3hot, no soft reset, no PME (PCI Power Management 1.2, section 3.2)."""

    capability_id = 0x01

    def body(self) -> bytes:
        """Capabilities (version 3), control and status, bridge extensions, data."""
        return struct.pack("<HHBB", 0x0003, 0x0008, 0, 0)

    def write_mask(self) -> bytes:
        """The power state."""
        return struct.pack("<HH", 0, 0x0003)


class ExpressCapability:
    """A PCI Express endpoint, version 2, without function level reset.

    PCI Express Base Specification 3.0, section 7.8.  The link is the least
    there is: 2.5 GT/s, one lane.
    """

    capability_id = 0x10

    def body(self) -> bytes:
        """PCI Express capabilities, then device, link, slot and root, in both versions."""
        device = struct.pack("<HIHH", 0x0002, 1 << 15, 0, 0)  # role-based error reporting
        link = struct.pack("<IHH", 0x11, 0, 0x11)
        return (device + link).ljust(58, b"\0")

    def write_mask(self) -> bytes:
        """Device control, link control; what is behind them has no effect."""
        return struct.pack("<HIHHIH", 0, 0, 0x7FFF, 0, 0, 0x01FB)


class SerialNumberCapability:
    """The device serial number (PCI Express Base Specification 3.0, section 7.12)."""

    extended_id = 0x0003
    version = 1

    def __init__(self, serial: int) -> None:
        """`serial` is an EUI-64.  Raises ValueError beyond 64 bits."""
        if not 0 <= serial < 1 << 64:
            raise ValueError(f"serial number {serial:#x}")
        self.serial = serial

    def body(self) -> bytes:
        """Lower and upper half."""
        return struct.pack("<Q", self.serial)
