"""Pictures, screenshots, boot ROMs."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vdxgk.adapter import AdapterOptions
from vdxgk.display.display import Display
from vdxgk.display.edid import Mode
from vdxgk.display.rom import RomError, read_rom

VRAM = 4 << 20
WIDTH, HEIGHT = 64, 66


@pytest.fixture
def display() -> Iterator[Display]:
    display = Display(VRAM, Mode(320, 200))
    yield display
    display.framebuffer.close()


def show(display: Display, bits: int, *, virtual: int = 0, x: int = 0, y: int = 0) -> None:
    values = struct.pack("<9H", WIDTH, HEIGHT, bits, 1, 0, virtual, 0, x, y)
    display.registers.write(0x502, values)


@pytest.mark.parametrize("order", [0x1E1E1E1E, 0xBEBEBEBE])
def test_32_bits(display: Display, order: int) -> None:
    show(display, 32, virtual=100, x=3, y=2)
    display.registers.write(0x604, struct.pack("<I", order))
    byte_order = "<" if order == 0x1E1E1E1E else ">"
    at = (2 + 5) * 400 + (3 + 7) * 4
    display.framebuffer.view[at : at + 4] = struct.pack(f"{byte_order}I", 0xFF123456)
    picture = display.picture()
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[5, 7].tolist() == [0x12, 0x34, 0x56]
    assert np.count_nonzero(picture) == 3


def test_16_bits(display: Display) -> None:
    show(display, 16)
    for number, word in enumerate([0xF800, 0x07E0, 0x001F, 0xFFFF, 0x8410, 0x0841]):
        struct.pack_into("<H", display.framebuffer.view, 2 * number, word)
    assert display.picture()[0, :6].tolist() == [
        *([255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]),
        *([132, 130, 132], [8, 8, 8]),
    ]


def test_a_picture_is_a_copy(display: Display) -> None:
    show(display, 32)
    picture = display.picture()
    display.framebuffer.view[0] = 1
    assert not picture.any()


def test_a_blank_screen_is_black(display: Display) -> None:
    assert display.picture().shape == (200, 320, 3)
    show(display, 32)
    display.framebuffer.clear()
    display.framebuffer.view[: 4 * WIDTH] = b"\xff" * 4 * WIDTH
    assert display.picture().any()
    display.registers.write(0x508, b"\0\0")
    assert display.picture().shape == (HEIGHT, WIDTH, 3)
    assert not display.picture().any()
    display.registers.write(0x508, b"\1\0")
    assert display.picture().any()
    display.reset()
    assert not display.picture().any()
    show(display, 32)
    assert display.picture().any()  # a reset keeps the pixels
    display.forget()
    show(display, 32)
    assert not display.picture().any()


def test_the_png_is_the_picture(display: Display) -> None:
    show(display, 32)
    display.framebuffer.view[: 4 * WIDTH * HEIGHT] = bytes(
        value & 0xFF for value in range(4 * WIDTH * HEIGHT)
    )
    with Image.open(io.BytesIO(display.png())) as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), display.picture())


def test_a_preferred_mode_must_fit() -> None:
    AdapterOptions(vram=4 << 20, mode=Mode(1024, 1024))
    with pytest.raises(ValueError, match="does not fit"):
        AdapterOptions(vram=4 << 20, mode=Mode(1024, 1025))


def rom(*, device: int = 0x1111, checksum: int = 0) -> bytes:
    image = bytearray(1024)
    image[:3] = b"\x55\xaa\x02"
    image[0x18:0x1A] = struct.pack("<H", 0x40)
    image[0x40:0x48] = b"PCIR" + struct.pack("<2H", 0x1234, device)
    image[-1] = (checksum - sum(image)) & 0xFF
    return bytes(image)


def test_a_good_rom(tmp_path: Path) -> None:
    path = tmp_path / "good.rom"
    path.write_bytes(rom())
    assert read_rom(path, 0x1234, 0x1111) == rom()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "does not begin with 55 aa"),
        (b"MZ" + bytes(1022), "does not begin with 55 aa"),
        (rom()[:512], "cut off"),
        (rom(checksum=1), "checksum"),
        (rom(device=0x1112), "for the device 1234:1112, this one is 1234:1111"),
        (rom().replace(b"PCIR", b"RICP"), "no PCI data structure"),
    ],
)
def test_roms_that_a_bios_would_ignore(tmp_path: Path, image: bytes, reason: str) -> None:
    path = tmp_path / "bad.rom"
    path.write_bytes(image)
    with pytest.raises(RomError, match=reason):
        read_rom(path, 0x1234, 0x1111)
