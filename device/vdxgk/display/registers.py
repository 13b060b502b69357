"""The display's register page, BAR 2 (QEMU's docs/specs/standard-vga.rst).

    0x000  EDID, read-only
    0x400  VGA ports 0x3c0 to 0x3df, bytes
    0x500  DISPI registers, 16 bits each
    0x600  size of this block (8), then the framebuffer's byte order, 32 bits each

Everything else reads as all-ones.
"""

from __future__ import annotations

import struct

from vdxgk.display.scanout import Scanout, scanout

PAGE_SIZE = 4096
EDID_OFFSET = 0x000
EDID_ROOM = 0x400
VGA_OFFSET = 0x400
DISPI_OFFSET = 0x500
QEXT_OFFSET = 0x600

DISPI_ID5 = 0xB0C5
DISPI_ID = 0
DISPI_XRES = 1
DISPI_YRES = 2
DISPI_BPP = 3
DISPI_ENABLE = 4
DISPI_BANK = 5
DISPI_VIRT_WIDTH = 6
DISPI_VIRT_HEIGHT = 7
DISPI_X_OFFSET = 8
DISPI_Y_OFFSET = 9
DISPI_VIDEO_MEMORY_64K = 10
DISPI_REGISTERS = 11
DISPI_ENABLED = 0x01

QEXT_SIZE = 8
BYTE_ORDER_OFFSET = QEXT_OFFSET + 4
LITTLE_ENDIAN = 0x1E1E1E1E
BIG_ENDIAN = 0xBEBEBEBE

# Only what blanks the screen is there of VGA: the attribute controller's index
# with its Palette Address Source bit, and the read that makes the next write
# an index (IBM VGA, "Attribute Controller", "Input Status Register 1").
VGA_ATTRIBUTE = VGA_OFFSET + 0x00
VGA_INPUT_STATUS_1 = VGA_OFFSET + 0x1A
PALETTE_ADDRESS_SOURCE = 0x20

_DISPI = struct.Struct(f"<{DISPI_REGISTERS}H")
_WRITABLE = range(DISPI_OFFSET + 2 * DISPI_XRES, DISPI_OFFSET + 2 * DISPI_VIDEO_MEMORY_64K)


class DisplayRegisters:
    """A region handler.  Accesses come from the protocol's thread; readers from any.

    Accesses of any size and alignment work: registers are bytes,
    little-endian, some of which ignore writes.
    """

    def __init__(self, edid: bytes, vram: int) -> None:
        """``vram`` is the framebuffer in bytes, a multiple of 64 KiB."""
        if len(edid) > EDID_ROOM:
            raise ValueError(f"an EDID of {len(edid)} bytes does not fit")
        self._vram = vram
        self._initial = bytearray(b"\xff" * PAGE_SIZE)
        self._initial[EDID_OFFSET:VGA_OFFSET] = edid.ljust(EDID_ROOM, b"\0")
        values = [0] * DISPI_REGISTERS
        values[DISPI_ID] = DISPI_ID5
        values[DISPI_VIDEO_MEMORY_64K] = vram >> 16
        _DISPI.pack_into(self._initial, DISPI_OFFSET, *values)
        struct.pack_into("<2I", self._initial, QEXT_OFFSET, QEXT_SIZE, LITTLE_ENDIAN)
        self.reset()

    def reset(self) -> None:
        """Return every register to its initial value: nothing is shown."""
        self._attribute_data_next = False
        # A driver that knows of no VGA ports has nothing to unblank.
        self._palette_source = True
        self._page = bytearray(self._initial)

    @property
    def blank(self) -> bool:
        """Whether the guest has turned the picture off."""
        (enable,) = struct.unpack_from("<H", self._page, DISPI_OFFSET + 2 * DISPI_ENABLE)
        return not (enable & DISPI_ENABLED and self._palette_source)

    def scanout(self) -> Scanout | None:
        """The rectangle to show, blank or not; None if the registers describe none."""
        values = _DISPI.unpack_from(self._page, DISPI_OFFSET)
        (byte_order,) = struct.unpack_from("<I", self._page, BYTE_ORDER_OFFSET)
        return scanout(
            values[DISPI_XRES],
            values[DISPI_YRES],
            values[DISPI_BPP],
            values[DISPI_VIRT_WIDTH],
            values[DISPI_X_OFFSET],
            values[DISPI_Y_OFFSET],
            big_endian=byte_order == BIG_ENDIAN,
            vram=self._vram,
        )

    def read(self, offset: int, count: int) -> bytes:
        """Answer an access."""
        if offset <= VGA_INPUT_STATUS_1 < offset + count:
            self._attribute_data_next = False
        return bytes(self._page[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Accept an access; what no register takes is dropped."""
        if offset == BYTE_ORDER_OFFSET:
            if data in (LITTLE_ENDIAN.to_bytes(4, "little"), BIG_ENDIAN.to_bytes(4, "little")):
                self._page[offset : offset + 4] = data
            return
        if offset <= VGA_ATTRIBUTE < offset + len(data):
            self._write_attribute(data[VGA_ATTRIBUTE - offset])
        start = max(offset, _WRITABLE.start)
        stop = min(offset + len(data), _WRITABLE.stop)
        if start < stop:
            self._page[start:stop] = data[start - offset : stop - offset]

    def _write_attribute(self, value: int) -> None:
        if not self._attribute_data_next:
            self._palette_source = bool(value & PALETTE_ADDRESS_SOURCE)
        self._attribute_data_next = not self._attribute_data_next
