"""A reentrant lock that is handed over: who waits goes before who comes back.

Python's own locks let a thread that releases and at once acquires again win
every time, so that a busy DMA engine could starve the client's unmaps.
"""

from __future__ import annotations

import threading
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class FairLock:
    """Reentrant within a thread; at most one turn is lost to the previous owner."""

    __slots__ = ("_depth", "_gate", "_lock", "_owner")

    def __init__(self) -> None:
        """Start free."""
        self._gate = threading.Lock()  # held by the one who is next
        self._lock = threading.Lock()
        self._owner = 0  # no thread has this identity
        self._depth = 0

    @property
    def has_waiter(self) -> bool:
        """Whether someone is next: the lock goes to that thread."""
        return self._gate.locked()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds it."""
        return self._owner == get_ident()

    def acquire(self) -> None:
        """Wait for the lock; count nested acquisitions."""
        thread = get_ident()
        if self._owner != thread:
            # Mostly it is free and nobody waits: every DMA_MAP passes here.
            if self._gate.locked() or not self._lock.acquire(False):
                with self._gate:
                    self._lock.acquire()
            self._owner = thread
            self._depth = 1
        else:
            self._depth += 1

    def release(self) -> None:
        """Undo one acquire; after the outermost, let the next one in."""
        if self._depth == 1:
            self._owner = self._depth = 0
            self._lock.release()
        else:
            self._depth -= 1

    __enter__ = acquire  # without a frame of its own

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release."""
        if self._depth == 1:  # as `release`, without a frame of its own
            self._owner = self._depth = 0
            self._lock.release()
        else:
            self._depth -= 1
