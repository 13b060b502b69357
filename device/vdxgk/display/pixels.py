"""From the framebuffer's pixels to red, green and blue bytes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vdxgk.display.scanout import PixelFormat, Scanout

Picture: TypeAlias = NDArray[np.uint8]
"""Height x width x 3: red, green, blue; rows in a row in memory."""


def raw_pixels(framebuffer: memoryview, area: Scanout) -> NDArray[np.generic]:
    """The pixels in place: height x width x 4 bytes, or height x width 16-bit words."""
    if area.format is PixelFormat.RGB565:
        return np.ndarray(
            (area.height, area.width), "<u2", framebuffer, area.offset, (area.stride, 2)
        )
    shape = (area.height, area.width, 4)
    return np.ndarray(shape, np.uint8, framebuffer, area.offset, (area.stride, 4, 1))


def to_picture(pixels: NDArray[np.generic], pixel_format: PixelFormat) -> Picture:
    """A copy of pixels as :func:`raw_pixels` gives them, or of a part of them."""
    picture = np.empty((*pixels.shape[:2], 3), np.uint8)
    if pixel_format is PixelFormat.RGB565:
        words = pixels.astype(np.uint16)
        # The high bits again below, so that full intensity is 255.
        red, green, blue = words >> 11, words >> 5 & 0x3F, words & 0x1F
        picture[..., 0] = red << 3 | red >> 2
        picture[..., 1] = green << 2 | green >> 4
        picture[..., 2] = blue << 3 | blue >> 2
    elif pixel_format is PixelFormat.XRGB8888:
        picture[...] = pixels[..., 2::-1]
    else:
        picture[...] = pixels[..., 1:]
    return picture
