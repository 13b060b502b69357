"""The display's register page, and what it says is shown."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdxgk.display import registers
from vdxgk.display.edid import Mode, edid
from vdxgk.display.registers import DisplayRegisters
from vdxgk.display.scanout import PixelFormat, Scanout, scanout

VRAM = 16 << 20
EDID = edid(Mode(1280, 800))
UNBLANK = b"\x20"


class Screen:
    """A driver."""

    def __init__(self) -> None:
        self.page = DisplayRegisters(EDID, VRAM)

    def get(self, index: int) -> int:
        return int.from_bytes(self.page.read(registers.DISPI_OFFSET + 2 * index, 2), "little")

    def set(self, index: int, value: int) -> None:
        self.page.write(registers.DISPI_OFFSET + 2 * index, struct.pack("<H", value))

    def show(self, width: int, height: int, bits: int = 32) -> None:
        for index, value in (
            (registers.DISPI_XRES, width),
            (registers.DISPI_YRES, height),
            (registers.DISPI_BPP, bits),
            (registers.DISPI_ENABLE, 0x41),
        ):
            self.set(index, value)


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_what_a_driver_looks_for(screen: Screen) -> None:
    assert screen.get(registers.DISPI_ID) == 0xB0C5
    assert screen.get(registers.DISPI_VIDEO_MEMORY_64K) == VRAM >> 16
    assert screen.page.read(0, len(EDID)) == EDID
    assert screen.page.read(0x600, 8) == struct.pack("<2I", 8, 0x1E1E1E1E)
    assert screen.get(11) == 0xFFFF
    assert screen.page.read(0x608, 8) == b"\xff" * 8


@pytest.mark.parametrize("index", range(registers.DISPI_XRES, registers.DISPI_VIDEO_MEMORY_64K))
def test_registers_keep_what_is_written(screen: Screen, index: int) -> None:
    before = [screen.get(i) for i in range(registers.DISPI_REGISTERS)]
    screen.set(index, 0xA5C3)
    after = [screen.get(i) for i in range(registers.DISPI_REGISTERS)]
    assert after == [*before[:index], 0xA5C3, *before[index + 1 :]]
    screen.page.reset()
    assert [screen.get(i) for i in range(registers.DISPI_REGISTERS)] == before


def test_a_wide_write_sets_only_what_is_writable(screen: Screen) -> None:
    before = screen.page.read(0, 4096)
    screen.page.write(0, bytes(range(256)) * 16)
    after = screen.page.read(0, 4096)
    assert after[:0x502] == before[:0x502]
    assert after[0x502:0x514] == bytes(range(2, 0x14))
    assert after[0x514:] == before[0x514:]


def test_two_registers_in_one_write(screen: Screen) -> None:
    screen.page.write(0x502, struct.pack("<2H", 1024, 768))
    assert (screen.get(registers.DISPI_XRES), screen.get(registers.DISPI_YRES)) == (1024, 768)


def test_nothing_is_shown_until_enabled(screen: Screen) -> None:
    assert screen.page.scanout() is None
    assert screen.page.blank
    screen.show(640, 480)
    assert not screen.page.blank
    assert screen.page.scanout() == Scanout(640, 480, 2560, 0, PixelFormat.XRGB8888)
    screen.set(registers.DISPI_ENABLE, 0)
    assert screen.page.blank
    screen.page.reset()
    assert screen.page.scanout() is None


def test_the_palette_source_blanks(screen: Screen) -> None:
    screen.show(640, 480)
    screen.page.read(registers.VGA_INPUT_STATUS_1, 1)
    screen.page.write(registers.VGA_ATTRIBUTE, b"\x00")
    assert screen.page.blank
    # The second of two writes is the register's data, whatever it holds.
    screen.page.write(registers.VGA_ATTRIBUTE, UNBLANK)
    assert screen.page.blank
    screen.page.write(registers.VGA_ATTRIBUTE, UNBLANK)
    assert not screen.page.blank
    # The status read makes the next write an index again.
    screen.page.read(registers.VGA_INPUT_STATUS_1, 1)
    screen.page.write(registers.VGA_ATTRIBUTE, b"\x00")
    assert screen.page.blank
    screen.page.reset()
    screen.show(640, 480)
    assert not screen.page.blank


def test_byte_order(screen: Screen) -> None:
    screen.show(640, 480)
    screen.page.write(0x604, struct.pack("<I", 0xBEBEBEBE))
    area = screen.page.scanout()
    assert area
    assert area.format is PixelFormat.XRGB8888_BIG_ENDIAN
    for ignored in (struct.pack("<I", 0x12345678), b"\x1e\x1e", b"\x1e" * 8):
        screen.page.write(0x604, ignored)
        assert screen.page.read(0x604, 4) == b"\xbe" * 4
    screen.page.write(0x604, b"\x1e" * 4)
    assert screen.page.read(0x604, 4) == b"\x1e" * 4
    screen.page.write(0x600, b"\xbe" * 8)
    assert screen.page.read(0x600, 8) == struct.pack("<2I", 8, 0x1E1E1E1E)


def test_virtual_size_and_panning() -> None:
    area = scanout(640, 480, 16, 1000, 7, 9, big_endian=True, vram=VRAM)
    assert area == Scanout(640, 480, 2000, 9 * 2000 + 14, PixelFormat.RGB565)
    narrow = scanout(640, 480, 32, 100, 0, 0, big_endian=False, vram=VRAM)
    assert narrow
    assert narrow.stride == 2560


@pytest.mark.parametrize(
    ("width", "height", "bits", "y"),
    [
        *((63, 480, 32, 0), (640, 63, 32, 0), (640, 480, 24, 0), (640, 480, 0, 0), (0, 0, 0, 0)),
        *((2048, 2048, 32, 1), (2048, 2049, 32, 0), (65535, 65535, 32, 65535)),
    ],
)
def test_what_no_picture_can_be(width: int, height: int, bits: int, y: int) -> None:
    assert scanout(width, height, bits, 0, 0, y, big_endian=False, vram=VRAM) is None
    assert scanout(2048, 2048, 32, 0, 0, 0, big_endian=False, vram=VRAM)


words = st.integers(0, 0xFFFF) | st.integers(0, 2048)


@given(words, words, st.sampled_from([8, 15, 16, 24, 32]), words, words, words)
def test_no_register_values_reach_beyond_the_framebuffer(
    width: int, height: int, bits: int, virtual: int, x: int, y: int
) -> None:
    area = scanout(width, height, bits, virtual, x, y, big_endian=False, vram=VRAM)
    if area:
        assert area.offset >= 0
        last_line = area.offset + (area.height - 1) * area.stride
        assert last_line + area.width * area.format.size <= VRAM
