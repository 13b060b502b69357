"""Eventfds that the client signals to mask or unmask an interrupt.

A thread waits for them.  It is there only while a client has given any, and
sleeps without waking up.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

Action = Callable[[], None]


class EventfdWatcher:
    """Calls an action each time that its eventfd is signalled.  From any thread."""

    def __init__(self) -> None:
        """Watch nothing yet, with no thread."""
        self._lock = threading.Lock()
        self._actions: dict[int, Action] = {}
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None

    def add(self, eventfd: int, action: Action) -> None:
        """Take over a non-blocking eventfd and watch it.  The action must not raise."""
        with self._lock:
            if self._epoll is None:
                self._epoll, self._wake = select.epoll(), os.eventfd(0)
                self._epoll.register(self._wake, select.EPOLLIN)
                self._thread = threading.Thread(
                    target=self._run,
                    args=(self._epoll, self._wake),
                    name="vfio-user-irq-watch",
                    daemon=True,
                )
                self._thread.start()
            self._actions[eventfd] = action
            self._epoll.register(eventfd, select.EPOLLIN)

    def remove(self, eventfd: int) -> None:
        """Close an eventfd that is watched; after the last, wait for the thread to end.

        Not from an action, nor with a lock that an action takes.
        """
        ended = None
        with self._lock:
            del self._actions[eventfd]
            assert self._epoll is not None
            self._epoll.unregister(eventfd)
            os.close(eventfd)
            if not self._actions:
                # The thread closes both when it sees this.
                os.eventfd_write(self._wake, 1)
                self._epoll, self._wake = None, -1
                ended, self._thread = self._thread, None
        if ended is not None:
            ended.join()

    def _run(self, epoll: select.epoll, wake: int) -> None:
        while True:
            for descriptor, _events in epoll.poll():
                if descriptor == wake:
                    epoll.close()
                    os.close(wake)
                    return
                action = self._take(epoll, descriptor)
                if action is not None:
                    action()

    def _take(self, epoll: select.epoll, eventfd: int) -> Action | None:
        """Read the signal; None if the eventfd is no longer watched here."""
        with self._lock:
            action = self._actions.get(eventfd)
            # Its number may be another file's by now.
            if action is None or self._epoll is not epoll:
                return None
            try:
                os.eventfd_read(eventfd)
            except BlockingIOError:
                return None
            return action
