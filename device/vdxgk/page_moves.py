"""Scattered pages, moved many at a time.

A page at a time costs Python more than the copy itself.  So whole pages of one
file go by numpy, with an array of their numbers that is kept as long as the
translation is.  They pass through a small buffer that stays in the processor's
cache, unless one side lies in one piece.
"""

from __future__ import annotations

import mmap

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from pyvfio_user import DmaAccess, Translation

PAGE = 4096
BATCH = 64
"""Pages at once: 256 KiB, about half of a usual second-level cache."""
LEAST_RUN = 16
"""Pages of a run, on average, from which on plain slices are as quick."""

_PAGE = np.dtype((np.void, PAGE))
Numbers = NDArray[np.intp]
"""Page numbers within a file, in the order of DMA addresses."""
Pages = NDArray[np.void]
"""Pages in place: of a file, or of the buffer.  Not to be kept beyond an access."""


class Buffer:
    """Where pages pass through.  For one thread at a time.

    It begins at a page, as what is copied to it and from it does: processors
    copy slowly to a place a few bytes further in its page than the source.
    """

    def __init__(self) -> None:
        self._pages = np.frombuffer(mmap.mmap(-1, BATCH * PAGE), _PAGE)

    def copy(self, source: DmaAccess, target: DmaAccess) -> bool:
        """Copy ranges of the same size; False, and nothing done, if slices are as good."""
        numbers, there = page_numbers(source.translation), page_numbers(target.translation)
        if numbers is None or there is None or not (is_scattered(source) or is_scattered(target)):
            return False
        pages, places = _pages_of(source), _pages_of(target, writable=True)
        if pages is None or places is None:
            return False
        try:
            if len(target) == 1:  # one run: no need of a buffer between
                first = int(there[0])
                np.take(pages, numbers, out=places[first : first + len(numbers)], mode="clip")
            elif len(source) == 1:
                first = int(numbers[0])
                places[there] = pages[first : first + len(numbers)]
            else:
                for start in range(0, len(numbers), BATCH):
                    batch = self._take(pages, numbers[start : start + BATCH])
                    places[there[start : start + BATCH]] = batch
        finally:
            target.wrote(target.iova, target.size)
        return True

    def read(self, source: DmaAccess, target: memoryview) -> bool:
        """Copy a range to memory of its size; False, and nothing done, if slices are as good.

        Quick only if ``target`` begins at a page, as the buffer does.
        """
        numbers = page_numbers(source.translation)
        pages = _pages_of(source) if numbers is not None and is_scattered(source) else None
        if numbers is None or pages is None:
            return False
        np.take(pages, numbers, out=np.frombuffer(target, _PAGE), mode="clip")
        return True

    def crc32(self, source: DmaAccess, crc: int) -> int | None:
        """Continue ``crc`` over a range; None if slices are as good."""
        numbers = page_numbers(source.translation)
        pages = _pages_of(source) if numbers is not None and is_scattered(source) else None
        if numbers is None or pages is None:
            return None
        for start in range(0, len(numbers), BATCH):
            crc = isal_zlib.crc32(self._take(pages, numbers[start : start + BATCH]).data, crc)
        return crc

    def _take(self, pages: Pages, numbers: Numbers) -> Pages:
        # They are within the file: "clip" only saves numpy a copy for the case of an error.
        return np.take(pages, numbers, out=self._pages[: len(numbers)], mode="clip")


def is_scattered(access: DmaAccess) -> bool:
    """Whether the runs of a range are short."""
    return len(access) * LEAST_RUN * PAGE > access.size


def page_numbers(translation: Translation) -> Numbers | None:
    """The numbers of the pages, if they are whole ones of one file."""
    if translation.note is None:
        translation.note = _Note(_page_numbers(translation))
    assert isinstance(translation.note, _Note)
    return translation.note.numbers


class _Note:
    """What is remembered of a translation; also that there is nothing to remember."""

    def __init__(self, numbers: Numbers | None) -> None:
        self.numbers = numbers


def _page_numbers(translation: Translation) -> Numbers | None:
    if translation.backing is None:
        return None
    _, sizes, _, _, offsets = zip(*translation.runs, strict=True)
    runs = np.array((offsets, sizes))
    if (runs % PAGE).any():
        return None
    firsts, counts = runs // PAGE
    # Each page is as far behind the first of its run as it is behind the run's place here.
    return np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def _pages_of(access: DmaAccess, writable: bool = False) -> Pages | None:
    file = access.file(writable)
    return None if file is None else np.frombuffer(file, _PAGE, len(file) // PAGE)
