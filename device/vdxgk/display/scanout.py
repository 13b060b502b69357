"""What the registers say is to be shown, and where in the framebuffer it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LEAST_SIDE = 64
"""Pixels; QEMU's bochs-display shows nothing smaller."""


class PixelFormat(Enum):
    """How a pixel lies in memory; the value is its size in bytes and a name."""

    RGB565 = (2, "rgb565")
    """16 bits, little-endian: red 15:11, green 10:5, blue 4:0."""
    XRGB8888 = (4, "xrgb8888")
    """32 bits, little-endian: red 23:16, green 15:8, blue 7:0."""
    XRGB8888_BIG_ENDIAN = (4, "xrgb8888 big-endian")

    @property
    def size(self) -> int:
        """Bytes of a pixel."""
        return self.value[0]

    @property
    def label(self) -> str:
        """For a person."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Scanout:
    """A rectangle of the framebuffer.  Sizes in pixels; stride and offset in bytes."""

    width: int
    height: int
    stride: int
    offset: int
    format: PixelFormat


def scanout(
    width: int,
    height: int,
    bits_per_pixel: int,
    virtual_width: int,
    x: int,
    y: int,
    *,
    big_endian: bool,
    vram: int,
) -> Scanout | None:
    """The picture for DISPI register values; None where they describe none.

    A line is as long as the larger of ``width`` and ``virtual_width``; ``x``
    and ``y`` pan.  Byte order matters at 32 bits per pixel only.  The
    rectangle lies within ``vram`` bytes, whatever the values.
    """
    if bits_per_pixel == 16:
        pixel_format = PixelFormat.RGB565
    elif bits_per_pixel == 32:
        pixel_format = PixelFormat.XRGB8888_BIG_ENDIAN if big_endian else PixelFormat.XRGB8888
    else:
        return None
    if width < LEAST_SIDE or height < LEAST_SIDE:
        return None
    stride = max(width, virtual_width) * pixel_format.size
    offset = x * pixel_format.size + y * stride
    if offset + stride * height > vram:
        return None
    return Scanout(width, height, stride, offset, pixel_format)
