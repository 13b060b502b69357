"""The hardware cursor: a small picture over the surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vdxgk.channel import layout
from vdxgk.display.pixels import Words, from_picture, to_picture
from vdxgk.display.scanout import PixelFormat

SIDE = layout.CURSOR_SIDE


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """``picture`` is SIDE x SIDE x 4: blue, green, red, alpha; its hot spot is at the position."""

    picture: NDArray[np.uint8]
    hot_x: int
    hot_y: int

    @classmethod
    def of(cls, data: bytes, hot_x: int, hot_y: int) -> Cursor:
        """From memory, ARGB8888."""
        return cls(np.frombuffer(data, np.uint8).reshape(SIDE, SIDE, 4), hot_x, hot_y)

    def draw(self, words: Words, pixel_format: PixelFormat, x: int, y: int) -> None:
        """Put it over the pixels of a screen, with its hot spot at ``x``, ``y``."""
        left, top = x - self.hot_x, y - self.hot_y
        part = words[max(0, top) : max(0, top + SIDE), max(0, left) : max(0, left + SIDE)]
        if not part.size:
            return
        first_row, first_column = max(0, -top), max(0, -left)
        over = self.picture[
            first_row : first_row + part.shape[0], first_column : first_column + part.shape[1]
        ].astype(np.uint32)
        alpha = over[..., 3:]
        under = to_picture(part, pixel_format)
        blended = (over[..., 2::-1] * alpha + under * (255 - alpha) + 127) // 255
        part[...] = from_picture(blended.astype(np.uint8), pixel_format)
