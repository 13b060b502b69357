"""The log of pages that the device has written ("VFIO_DEVICE_FEATURE_DMA_LOGGING_START").

A page is noted after it was written: a report that comes between the two
misses it, and the next one has it.  The other order could lose it.
"""

from __future__ import annotations

import array
import errno
import sys
import threading
from collections.abc import Iterator

from .addresses import ADDRESS_END
from .errors import RemoteProtocolError

LEAST_PAGE = 1 << 12
MOST_PAGE = 1 << 30
GROUP = 512  # pages that share an entry


class DirtyLog:
    """Pages written since the log was started or they were last reported.

    Safe to use from any thread.
    """

    def __init__(self, max_groups: int = 1 << 18) -> None:
        """Start switched off.

        `max_groups`, each of 512 neighbouring pages, bounds the memory.  When
        more are touched, every page counts as written until the next start.
        """
        self.is_on = False
        self._max_groups = max_groups
        self._lock = threading.Lock()
        self._page = LEAST_PAGE
        self._groups: dict[int, int] = {}  # by number: a bit for each page
        self._overflowed = False

    def start(self, page_size: int) -> int:
        """Begin; return the page size used.

        Raises RemoteProtocolError: EINVAL for a page size that is no power of
        two; EBUSY, as in Linux, if the log is on.
        """
        if page_size <= 0 or page_size & (page_size - 1):
            raise RemoteProtocolError(errno.EINVAL, f"page size {page_size:#x}")
        with self._lock:
            if self.is_on:
                raise RemoteProtocolError(errno.EBUSY, "the log is already on")
            self._page = min(max(page_size, LEAST_PAGE), MOST_PAGE)
            self.is_on = True
            return self._page

    def stop(self) -> None:
        """Switch off and forget."""
        with self._lock:
            self.is_on = False
            self._groups.clear()
            self._overflowed = False

    def wrote(self, address: int, size: int) -> None:
        """Note that `size` bytes have been written."""
        with self._lock:
            if self.is_on and size:
                self._note(address // self._page, (address + size - 1) // self._page)

    def report(self, address: int, length: int, page_size: int) -> bytes:
        """Return a bitmap of 64-bit words, a bit for each `page_size` bytes; forget those pages.

        A page that lies only partly in the range is reported and stays noted.

        Raises RemoteProtocolError(EINVAL) if the log is off, or for a range
        or page size that makes no sense.  The caller bounds the size.
        """
        if page_size <= 0 or page_size & (page_size - 1):
            raise RemoteProtocolError(errno.EINVAL, f"page size {page_size:#x}")
        if not length or address + length > ADDRESS_END:
            raise RemoteProtocolError(errno.EINVAL, f"range {address:#x}, {length:#x}")
        units = -(-length // page_size)
        bitmap = bytearray(bitmap_size(length, page_size))
        with self._lock:
            if not self.is_on:
                raise RemoteProtocolError(errno.EINVAL, "the log is off")
            if self._overflowed:
                pages: Iterator[int] = iter(())
                _fill(bitmap, 0, units)
            else:
                pages = self._take(address, address + length)
            for page in pages:
                start = max(page * self._page, address) - address
                stop = min((page + 1) * self._page, address + length) - address
                _fill(bitmap, start // page_size, (stop - 1) // page_size + 1)
        if sys.byteorder == "big":
            words = array.array("Q", bytes(bitmap))
            words.byteswap()
            return words.tobytes()
        return bytes(bitmap)

    def _note(self, first: int, last: int) -> None:
        for group in range(first // GROUP, last // GROUP + 1):
            low = max(first - group * GROUP, 0)
            high = min(last - group * GROUP, GROUP - 1)
            if group not in self._groups and len(self._groups) >= self._max_groups:
                self._groups.clear()
                self._overflowed = True
            if self._overflowed:
                return
            bits = ((1 << (high - low + 1)) - 1) << low
            self._groups[group] = self._groups.get(group, 0) | bits

    def _take(self, start: int, end: int) -> Iterator[int]:
        """Yield the noted pages that touch a range; forget those that lie in it."""
        first, last = start // self._page, (end - 1) // self._page
        groups = range(first // GROUP, last // GROUP + 1)
        if len(groups) > len(self._groups):
            found = [group for group in self._groups if group in groups]
        else:
            found = [group for group in groups if group in self._groups]
        for group in found:
            bits = kept = self._groups[group]
            while bits:
                low = bits & -bits
                bits ^= low
                page = group * GROUP + low.bit_length() - 1
                if first <= page <= last:
                    yield page
                    if page * self._page >= start and (page + 1) * self._page <= end:
                        kept ^= low
            if kept:
                self._groups[group] = kept
            else:
                del self._groups[group]


def bitmap_size(length: int, page_size: int) -> int:
    """Bytes of the bitmap for a range."""
    return -(-length // (64 * page_size)) * 8


def _fill(bitmap: bytearray, start: int, stop: int) -> None:
    """Set the bits from `start` up to `stop`."""
    while start < stop and start % 8:
        bitmap[start // 8] |= 1 << start % 8
        start += 1
    whole = (stop - start) // 8
    if whole > 0:
        bitmap[start // 8 : start // 8 + whole] = b"\xff" * whole
        start += 8 * whole
    while start < stop:
        bitmap[start // 8] |= 1 << start % 8
        start += 1
