"""What has changed on the screen since one looked last.

A framebuffer that the guest maps tells nobody when it is written.  So a copy
of what was seen is compared with what is there now, at memory speed; and only
when somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vdxgk.display.display import Display, Screen
from vdxgk.display.pixels import Picture, Words, to_picture
from vdxgk.display.scanout import PixelFormat

BAND = 64
"""Rows that are compared at once; a band has at most one changed rectangle.

So no change is large, whatever the size of the screen.
"""
_BLACK = np.zeros((), np.uint32)


@dataclass(frozen=True, slots=True)
class Change:
    """New pixels, and where their upper left corner is."""

    x: int
    y: int
    words: Words
    format: PixelFormat

    @property
    def picture(self) -> Picture:
        """The pixels as red, green and blue."""
        return to_picture(self.words, self.format)

    def cropped(self, width: int, height: int) -> Change | None:
        """What of it lies within a screen of ``width`` x ``height``; None if nothing does."""
        words = self.words[: max(0, height - self.y), : max(0, width - self.x)]
        return Change(self.x, self.y, words, self.format) if words.size else None


class ChangeTracker:
    """One viewer's memory of the screen.  For one thread."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._screen: Screen | None = None
        self._seen: Words | None = None
        self._copy = bytearray()  # what is behind it

    def forget(self) -> None:
        """Take everything for changed."""
        self._screen = None

    def look(self, with_cursor: bool = True) -> tuple[Screen, list[Change]]:
        """What is on the screen, and what of it is new, top to bottom.

        The changes hold until the next look.
        """
        screen, words = self._display.look(with_cursor)
        if words is None or screen.format is None:
            if screen == self._screen:
                return screen, []
            self._screen, self._seen = screen, None
            black = np.broadcast_to(_BLACK, (screen.height, screen.width))
            return screen, _bands(black, PixelFormat.XRGB8888)
        if self._seen is None or screen != self._screen:
            self._screen, self._copy = screen, bytearray(words.tobytes())
            self._seen = np.frombuffer(self._copy, words.dtype).reshape(words.shape)
            return screen, _bands(self._seen, screen.format)
        if words.flags.c_contiguous and self._copy.startswith(words.data):
            return screen, []  # by memcmp, in a third of the time that numpy takes
        changes = []
        for top in range(0, screen.height, BAND):
            change = _compare(words, self._seen, top, screen.format)
            if change:
                changes.append(change)
        return screen, changes


def _compare(words: Words, seen: Words, top: int, pixel_format: PixelFormat) -> Change | None:
    """What is new in a band, which is remembered."""
    band = slice(top, top + BAND)
    if np.array_equal(words[band], seen[band]):
        return None
    # The guest goes on drawing: what is shown is what is remembered.
    now = words[band].copy()
    different = now != seen[band]
    rows, columns = (np.flatnonzero(different.any(axis=axis)) for axis in (1, 0))
    seen[band] = now
    if not len(rows):
        return None
    part = now[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Change(int(columns[0]), top + int(rows[0]), part, pixel_format)


def _bands(words: Words, pixel_format: PixelFormat) -> list[Change]:
    """All of a screen."""
    tops = range(0, words.shape[0], BAND)
    return [Change(0, top, words[top : top + BAND], pixel_format) for top in tops]
