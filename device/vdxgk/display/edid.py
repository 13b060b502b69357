"""The monitor's EDID (VESA E-EDID Standard, Release A2; structure 1.4).

One base block of 128 bytes: a detailed timing that is the preferred mode,
a few well-known modes, range limits, a name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

EDID_SIZE = 128
MAX_SIDE = 4095
"""Pixels: a detailed timing has 12 bits for each side (3.10.2)."""
LEAST_SIDE = 64

_HEADER = b"\x00\xff\xff\xff\xff\xff\xff\x00"
_MANUFACTURER = "VDX"
_PRODUCT = 1
_YEAR = 2026
_DIGITAL_8_BITS = 0xA5  # digital, 8 bits per colour, DisplayPort
_GAMMA_2_2 = 120
_PREFERRED_IS_NATIVE_RGB = 0x06  # sRGB; the first detailed timing is the native mode
_SRGB = bytes.fromhex("ee91a3544c99260f5054")  # chromaticities of sRGB (3.7)
_ESTABLISHED = bytes([0x21, 0x08, 0x00])  # 640x480, 800x600, 1024x768 at 60 Hz
_ASPECTS = {(16, 10): 0, (4, 3): 1, (5, 4): 2, (16, 9): 3}
_STANDARD = (  # 60 Hz each (3.9)
    *((1280, 720, (16, 9)), (1280, 800, (16, 10)), (1280, 1024, (5, 4)), (1440, 900, (16, 10))),
    *((1600, 1200, (4, 3)), (1680, 1050, (16, 10)), (1920, 1080, (16, 9)), (1920, 1200, (16, 10))),
)
_MILLIMETRES_PER_PIXEL = 25.4 / 96
_CLOCK_UNIT = 10_000  # Hz
_MAX_CLOCK = 0xFFFF * _CLOCK_UNIT
_DESCRIPTOR_RANGE, _DESCRIPTOR_NAME, _DESCRIPTOR_DUMMY = 0xFD, 0xFC, 0x10

# VESA CVT 1.2, 5: reduced blanking.
_H_BLANK, _H_FRONT, _H_SYNC = 160, 48, 32
_V_FRONT, _V_SYNC = 3, 6
_LEAST_V_BLANK = 460e-6  # seconds


@dataclass(frozen=True, slots=True)
class Mode:
    """A size in pixels; each side 64 to 4095.  Raises ValueError for another."""

    width: int
    height: int

    def __post_init__(self) -> None:
        """Refuse what an EDID cannot say."""
        for side in (self.width, self.height):
            if not LEAST_SIDE <= side <= MAX_SIDE:
                raise ValueError(f"mode {self}: each side has {LEAST_SIDE} to {MAX_SIDE} pixels")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def edid(preferred: Mode) -> bytes:
    """The EDID of a monitor that prefers a mode, at 60 Hz where the clock allows."""
    width_mm, height_mm = (
        round(side * _MILLIMETRES_PER_PIXEL) for side in (preferred.width, preferred.height)
    )
    block = b"".join(
        [
            _HEADER,
            struct.pack(">H", _pnp_id(_MANUFACTURER)),
            struct.pack("<HIBB", _PRODUCT, 0, 0, _YEAR - 1990),
            bytes([1, 4]),
            bytes([_DIGITAL_8_BITS, _centimetres(width_mm), _centimetres(height_mm)]),
            bytes([_GAMMA_2_2, _PREFERRED_IS_NATIVE_RGB]),
            _SRGB,
            _ESTABLISHED,
            b"".join(_standard(*timing) for timing in _STANDARD),
            _detailed(preferred, width_mm, height_mm),
            _descriptor(_DESCRIPTOR_RANGE, bytes([24, 125, 15, 250, 66, 1]) + b"\n" + b" " * 6),
            _descriptor(_DESCRIPTOR_NAME, b"vdxgk\n".ljust(13)),
            _descriptor(_DESCRIPTOR_DUMMY, bytes(13)),
            bytes([0]),  # no extension
        ]
    )
    return block + bytes([-sum(block) & 0xFF])


def _pnp_id(letters: str) -> int:
    first, second, third = (ord(letter) - ord("@") for letter in letters)
    return first << 10 | second << 5 | third


def _centimetres(millimetres: int) -> int:
    return min(255, max(1, millimetres // 10))


def _standard(width: int, _height: int, aspect: tuple[int, int]) -> bytes:
    return bytes([width // 8 - 31, _ASPECTS[aspect] << 6])


def _detailed(mode: Mode, width_mm: int, height_mm: int) -> bytes:
    """A detailed timing descriptor (3.10.2), with reduced blanking."""
    frame = 1 / 60
    v_blank = max(
        _V_FRONT + _V_SYNC + 1, int(_LEAST_V_BLANK * mode.height / (frame - _LEAST_V_BLANK)) + 1
    )
    pixels = (mode.width + _H_BLANK) * (mode.height + v_blank)
    clock = min(round(pixels / frame), _MAX_CLOCK) // _CLOCK_UNIT
    return struct.pack(
        "<H16B",
        clock,
        *(mode.width & 0xFF, _H_BLANK & 0xFF, mode.width >> 8 << 4 | _H_BLANK >> 8),
        *(mode.height & 0xFF, v_blank & 0xFF, mode.height >> 8 << 4 | v_blank >> 8),
        *(_H_FRONT, _H_SYNC, _V_FRONT << 4 | _V_SYNC, 0),
        *(width_mm & 0xFF, height_mm & 0xFF, width_mm >> 8 << 4 | height_mm >> 8),
        *(0, 0, 0x1A),  # no border; digital separate sync, horizontal positive
    )


def _descriptor(tag: int, data: bytes) -> bytes:
    return bytes([0, 0, 0, tag, 0]) + data
