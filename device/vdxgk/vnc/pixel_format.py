"""How a viewer wants its pixels (RFC 6143, 7.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdxgk.display import scanout as display
from vdxgk.display.changes import Change
from vdxgk.display.pixels import Picture

SIZE = 16
_STRUCT = struct.Struct(">BBBBHHHBBB3x")


class PixelFormatError(ValueError):
    """The viewer asks for what we do not have, or what makes no sense."""


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A true-colour format; ``maxima`` and ``shifts`` are those of red, green and blue."""

    bits: int
    depth: int
    big_endian: bool
    maxima: tuple[int, int, int]
    shifts: tuple[int, int, int]

    @classmethod
    def parse(cls, data: bytes) -> PixelFormat:
        """From the wire.  Raises PixelFormatError; colour maps are not supported."""
        bits, depth, big_endian, true_colour, *rest = _STRUCT.unpack(data)
        maxima, shifts = (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5])
        if not true_colour:
            raise PixelFormatError("colour maps are not supported")
        if bits not in (8, 16, 32):
            raise PixelFormatError(f"{bits} bits per pixel")
        for maximum, shift in zip(maxima, shifts, strict=True):
            if not maximum or maximum & (maximum + 1) or maximum << shift >= 1 << bits:
                raise PixelFormatError(f"a colour of {maximum} at bit {shift} of {bits}")
        return cls(bits, depth, bool(big_endian), maxima, shifts)

    def pack(self) -> bytes:
        """For the wire."""
        return _STRUCT.pack(
            self.bits, self.depth, self.big_endian, True, *self.maxima, *self.shifts
        )

    def encode(self, change: Change) -> NDArray[np.uint8]:
        """Height x width x bytes."""
        if self == DEFAULT and change.format is display.PixelFormat.XRGB8888:
            words = np.ascontiguousarray(change.words)
            return words.view(np.uint8).reshape(*words.shape, 4)
        return self.convert(change.picture)

    def convert(self, picture: Picture) -> NDArray[np.uint8]:
        """Height x width x bytes, of red, green and blue."""
        values = np.zeros(picture.shape[:2], np.uint32)
        for colour, (maximum, shift) in enumerate(zip(self.maxima, self.shifts, strict=True)):
            part = picture[..., colour].astype(np.uint32)
            if maximum != 255:
                part = (part * maximum + 127) // 255
            values |= part << np.uint32(shift)
        order = ">" if self.big_endian else "<"
        size = self.bits // 8
        return values.astype(f"{order}u{size}").view(np.uint8).reshape(*values.shape, size)

    @property
    def compact(self) -> slice:
        """Which bytes of a pixel are a CPIXEL (7.7.5): three of four where three are enough."""
        if self.bits == 32 and self.depth <= 24:
            used = 0
            for maximum, shift in zip(self.maxima, self.shifts, strict=True):
                used |= maximum << shift
            if not used & 0xFF000000:
                return slice(1, 4) if self.big_endian else slice(0, 3)
            if not used & 0x000000FF:
                return slice(0, 3) if self.big_endian else slice(1, 4)
        return slice(0, self.bits // 8)


DEFAULT = PixelFormat(32, 24, False, (255, 255, 255), (16, 8, 0))
"""The framebuffer's own format, mostly: nothing has to be converted."""
