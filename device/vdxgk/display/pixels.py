"""From the framebuffer's pixels to red, green and blue bytes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vdxgk.display.scanout import PixelFormat, Scanout

Picture: TypeAlias = NDArray[np.uint8]
"""Height x width x 3: red, green, blue; rows in a row in memory."""
Words: TypeAlias = NDArray[np.generic]
"""Height x width: pixels as they lie in memory, 16 or 32 bits each."""

_PAGE = 4096
_BAND = 64
"""Rows that are converted at once."""


class Room:
    """Memory for a picture, kept from one to the next of the same size.

    It begins at a page, as surfaces do: processors copy slowly to a place a few bytes
    further in its page than the source.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0
        self.view = memoryview(self._data)

    def take(self, size: int) -> memoryview:
        """``size`` bytes, with what was in them if it was as large before."""
        if len(self.view) != size:
            self._data = bytearray(size + _PAGE)
            self._start = -np.frombuffer(self._data, np.uint8).ctypes.data % _PAGE
            self.view = memoryview(self._data)[self._start : self._start + size]
        return self.view

    def owns(self, words: Words) -> bool:
        """Whether these are pixels that were put here, without a copy between."""
        base: object = words.base
        return base is self._data

    def holds(self, data: memoryview, at: int = 0) -> bool:
        """Whether these bytes lie there from byte ``at`` on."""
        # By memcmp, in a third of the time that numpy takes.
        return self._data.startswith(data, self._start + at)


def raw_words(framebuffer: memoryview, area: Scanout) -> Words:
    """The pixels in place: the guest may change them at any time."""
    return np.ndarray(
        (area.height, area.width),
        f"<u{area.format.size}",
        framebuffer,
        area.offset,
        (area.stride, area.format.size),
    )


def black(width: int, height: int) -> Picture:
    """A black picture; sizes in pixels."""
    return np.zeros((height, width, 3), np.uint8)


def to_picture(words: Words, pixel_format: PixelFormat) -> Picture:
    """A copy of pixels as :func:`raw_words` gives them, or of a part of them."""
    picture = np.empty((*words.shape, 3), np.uint8)
    if pixel_format is PixelFormat.RGB565:
        pixels = words.astype(np.uint16)
        # The high bits again below, so that full intensity is 255.
        red, green, blue = pixels >> 11, pixels >> 5 & 0x3F, pixels & 0x1F
        picture[..., 0] = red << 3 | red >> 2
        picture[..., 1] = green << 2 | green >> 4
        picture[..., 2] = blue << 3 | blue >> 2
        return picture
    order = (2, 1, 0) if pixel_format is PixelFormat.XRGB8888 else (1, 2, 3)
    for top in range(0, len(words), _BAND):
        # Small enough for the processor's cache, and one colour after the other,
        # which costs a tenth of all three at once.  The guest goes on drawing:
        # a copy, so that a pixel's colours belong together.
        band = words[top : top + _BAND].copy().view(np.uint8).reshape(-1, words.shape[1], 4)
        for colour, place in enumerate(order):
            picture[top : top + _BAND, :, colour] = band[..., place]
    return picture


def from_picture(picture: Picture, pixel_format: PixelFormat) -> Words:
    """Pixels as they lie in memory; RGB565 keeps the high bits.  No big-endian ones."""
    red, green, blue = (picture[..., colour].astype(np.uint32) for colour in range(3))
    if pixel_format is PixelFormat.RGB565:
        return (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype("<u2")
    return (red << 16 | green << 8 | blue).astype("<u4")
