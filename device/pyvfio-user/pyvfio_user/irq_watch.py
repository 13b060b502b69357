"""Eventfds that the client signals to mask or unmask an interrupt.

A thread waits for them.  It is there only while a client has given any, and
sleeps without waking up.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable

from .connection import close_descriptor

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
        """Take over a non-blocking eventfd and watch it.  The action must not raise.

        Raises OSError, and leaves the eventfd to the caller, when the host has
        no memory, descriptors or threads.
        """
        with self._lock:
            epoll = self._epoll or self._begin()
            try:
                epoll.register(eventfd, select.EPOLLIN)
            except OSError:
                self._end_if_idle()
                raise
            self._actions[eventfd] = action

    def _begin(self) -> select.epoll:
        epoll, wake = select.epoll(), -1
        try:
            wake = os.eventfd(0)
            epoll.register(wake, select.EPOLLIN)
            thread = threading.Thread(
                target=self._run, args=(epoll, wake), name="vfio-user-irq-watch", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # Python's word for EAGAIN
                raise OSError(errno.EAGAIN, str(error)) from error
        except BaseException:
            epoll.close()
            if wake >= 0:
                os.close(wake)
            raise
        self._epoll, self._wake, self._thread = epoll, wake, thread
        return epoll

    def remove(self, eventfd: int) -> None:
        """Close an eventfd that is watched; after the last, wait for the thread to end.

        Not from an action, nor with a lock that an action takes.
        """
        with self._lock:
            del self._actions[eventfd]
            assert self._epoll is not None
            self._epoll.unregister(eventfd)
            close_descriptor(eventfd)
            ended = self._end_if_idle()
        if ended is not None:
            ended.join()

    def _end_if_idle(self) -> threading.Thread | None:
        """Tell the thread to end if nothing is watched; return it then."""
        if self._actions or self._epoll is None:
            return None
        # The thread closes both when it sees this.
        os.eventfd_write(self._wake, 1)
        self._epoll, self._wake = None, -1
        ended, self._thread = self._thread, None
        return ended

    def _run(self, epoll: select.epoll, wake: int) -> None:
        while True:
            for descriptor, _events in epoll.poll():
                if descriptor == wake:
                    epoll.close()
                    close_descriptor(wake)
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
