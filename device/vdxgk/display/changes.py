"""What has changed on the screen since one looked last.

A framebuffer that the guest maps tells nobody when it is written.  So a copy
of what was seen is compared with what is there now, at memory speed; and only
when somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vdxgk.display.display import Display, Screen
from vdxgk.display.pixels import Picture, Room, Words, to_picture
from vdxgk.display.scanout import PixelFormat

BAND = 64
"""Rows that are compared at once; a band has at most one changed rectangle.

So no change is large, whatever the size of the screen.
"""
_BLACK = np.zeros((), np.uint32)
_EDGES = (0, -1, (slice(None), 0), (slice(None), -1))
"""First and last row, first and last column."""


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
        self._copy, self._spare = Room(), Room()  # what is behind it, and for the next look

    def forget(self) -> None:
        """Take everything for changed."""
        self._screen = None

    def look(self, with_cursor: bool = True) -> tuple[Screen, list[Change]]:
        """What is on the screen, and what of it is new, top to bottom.

        The changes hold until the next look.
        """
        screen, words = self._display.look(with_cursor, self._spare)
        if words is None or screen.format is None:
            if screen == self._screen:
                return screen, []
            self._screen, self._seen = screen, None
            black = np.broadcast_to(_BLACK, (screen.height, screen.width))
            return screen, _bands(black, PixelFormat.XRGB8888)
        if self._seen is None or screen != self._screen:
            self._screen = screen
            return screen, _bands(self._remember(words), screen.format)
        seen = self._seen
        if self._spare.owns(words):
            changes = self._compare_copies(words, seen, screen.format)
        elif words.flags.c_contiguous and seen.flags.c_contiguous and self._copy.holds(words.data):
            changes = []
        else:
            bands = range(0, screen.height, BAND)
            found = (_compare(words, seen, top, screen.format) for top in bands)
            changes = [change for change in found if change]
        return screen, changes

    def _remember(self, words: Words) -> Words:
        """All of it, as seen."""
        if self._spare.owns(words):
            self._copy, self._spare = self._spare, self._copy
            self._seen = words
        else:
            room = self._copy.take(words.nbytes)
            self._seen = np.frombuffer(room, words.dtype).reshape(words.shape)
            self._seen[...] = words
        return self._seen

    def _compare_copies(self, words: Words, seen: Words, pixel_format: PixelFormat) -> list[Change]:
        """What is new in a copy, which from now on is what was seen."""
        now, pitch = self._spare.view, words.strides[0]
        alike = self._copy.owns(seen) and seen.strides == words.strides
        changes = []
        for top in range(0, len(words), BAND):
            start = top * pitch
            if not (alike and self._copy.holds(now[start : start + BAND * pitch], start)):
                band = slice(top, top + BAND)
                change = _changed(words[band], seen[band], top, pixel_format)
                if change:
                    changes.append(change)
        self._remember(words)
        return changes


def _compare(words: Words, seen: Words, top: int, pixel_format: PixelFormat) -> Change | None:
    """What is new in a band that the guest may be drawing, which is remembered."""
    band = slice(top, top + BAND)
    if np.array_equal(words[band], seen[band]):
        return None
    # The guest goes on drawing: what is shown is what is remembered.
    now = words[band].copy()
    change = _changed(now, seen[band], top, pixel_format)
    seen[band] = now
    return change


def _changed(now: Words, seen: Words, top: int, pixel_format: PixelFormat) -> Change | None:
    """The smallest rectangle that holds what is new in a band."""
    if all(np.not_equal(now[edge], seen[edge]).any() for edge in _EDGES):
        return Change(0, top, now, pixel_format)
    different = now != seen
    rows, columns = (np.flatnonzero(different.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    part = now[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Change(int(columns[0]), top + int(rows[0]), part, pixel_format)


def _bands(words: Words, pixel_format: PixelFormat) -> list[Change]:
    """All of a screen."""
    tops = range(0, words.shape[0], BAND)
    return [Change(0, top, words[top : top + BAND], pixel_format) for top in tops]
