"""One ring in shared memory, seen from the backend's side.

Whatever the guest writes there is untrusted: an index is read once and
checked, an entry is copied once.
"""

from __future__ import annotations

import ctypes
import threading

from vdxgk.channel import layout

_PRODUCER = layout.Ring.producer.offset // 4
_CONSUMER = layout.Ring.consumer.offset // 4
_NOTIFY = layout.Ring.notify.offset // 4
_LOST = layout.Ring.lost.offset // 4
_WRAP = 0xFFFFFFFF


class RingBrokenError(Exception):
    """The guest wrote an index that no correct driver writes."""


class _Ring:
    def __init__(self, shared: memoryview, number: int, offset: int, entry_size: int) -> None:
        header = number * ctypes.sizeof(layout.Ring)
        self._words = shared[header : header + ctypes.sizeof(layout.Ring)].cast("I")
        self._entries = shared[offset : offset + layout.RING_ENTRIES * entry_size]
        self._entry_size = entry_size
        # Python orders nothing by itself; taking a lock is a full barrier on every machine.
        self._barrier = threading.Lock()
        self._index = 0

    def reset(self) -> None:
        """Empty, no notification wanted."""
        self._words[_PRODUCER] = 0
        self._words[_CONSUMER] = 0
        self._words[_NOTIFY] = 0
        self._words[_LOST] = 0
        self._index = 0

    def _fence(self) -> None:
        with self._barrier:
            pass

    def _slot(self) -> slice:
        start = self._index % layout.RING_ENTRIES * self._entry_size
        return slice(start, start + self._entry_size)


class ConsumerRing(_Ring):
    """The guest produces, the backend consumes.

    Of the entries that wait when it is looked at, the first ``limit`` are welcome.
    """

    def __init__(
        self,
        shared: memoryview,
        number: int,
        offset: int,
        entry_size: int,
        limit: int = layout.RING_ENTRIES,
    ) -> None:
        super().__init__(shared, number, offset, entry_size)
        self._limit = limit
        self._left = 0
        self._places = 0
        self.crowded = False
        """Whether the entry taken last stood behind as many others as are welcome."""

    def reset(self) -> None:
        """Empty, no notification wanted."""
        super().reset()
        self._left = 0

    def take(self) -> bytes | None:
        """The next entry, or None if the ring is empty; raises RingBrokenError."""
        if not self._left:
            waiting = (self._words[_PRODUCER] - self._index) & _WRAP
            if waiting == 0:
                return None
            if waiting > layout.RING_ENTRIES:
                raise RingBrokenError(
                    f"{waiting} entries announced in a ring of {layout.RING_ENTRIES}"
                )
            self._left, self._places = waiting, self._limit
        self._left -= 1
        self._places -= 1
        self.crowded = self._places < 0
        entry = bytes(self._entries[self._slot()])
        self._index = (self._index + 1) & _WRAP
        self._words[_CONSUMER] = self._index
        return entry

    def sleep(self) -> bool:
        """Ask for a doorbell; False if entries came meanwhile and there is no need to sleep."""
        self._words[_NOTIFY] = 1
        self._fence()
        if self._words[_PRODUCER] == self._index:
            return True
        self._words[_NOTIFY] = 0
        return False

    def wake(self) -> None:
        """At work: doorbells are not needed."""
        self._words[_NOTIFY] = 0


class ProducerRing(_Ring):
    """The backend produces, the guest consumes."""

    @property
    def full(self) -> bool:
        """Whether ``put`` would fail; raises RingBrokenError."""
        unread = (self._index - self._words[_CONSUMER]) & _WRAP
        if unread > layout.RING_ENTRIES:
            raise RingBrokenError(f"the guest claims {-unread & _WRAP} entries too many read")
        return unread == layout.RING_ENTRIES

    def put(self, entry: bytes) -> bool:
        """Append ``entry``; False if the ring is full. Raises RingBrokenError."""
        unread = (self._index - self._words[_CONSUMER]) & _WRAP
        if unread > layout.RING_ENTRIES:
            raise RingBrokenError(f"the guest claims {-unread & _WRAP} entries too many read")
        if unread == layout.RING_ENTRIES:
            return False
        self._entries[self._slot()] = entry
        self._index = (self._index + 1) & _WRAP
        self._words[_PRODUCER] = self._index
        return True

    @property
    def notify(self) -> bool:
        """Whether the guest wants an interrupt; asked after ``put``."""
        self._fence()
        return self._words[_NOTIFY] != 0

    def count_lost(self) -> None:
        """An entry was dropped because the guest does not read."""
        self._words[_LOST] = min(self._words[_LOST] + 1, _WRAP)
