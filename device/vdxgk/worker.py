"""A thread that works when told to, and otherwise sleeps without waking up."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger


class Worker:
    """Calls ``work`` on its own thread after each ``wake``; several wakes may become one call.

    ``work`` may answer in how many seconds it wants to be called again, wake or not.

    An exception in ``work`` is logged and the thread goes on: a bug must not
    cost the guest its device.
    """

    def __init__(
        self, name: str, work: Callable[[], float | None], log: FilteringBoundLogger
    ) -> None:
        self._work = work
        # Of C, unlike an event: for who waits, these two are most of what a wake costs.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._log = log
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is work.  From any thread; never blocks."""
        if self._wakes.empty():
            self._wakes.put(None)

    def stop(self, timeout: float = 5.0) -> None:
        """End after the work under way, at most ``timeout`` seconds from now."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause: float | None = None
        while True:
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=pause)
            if self._stopping:
                return
            pause = None
            try:
                pause = self._work()
            except Exception:
                self._log.exception("internal error", worker=self._thread.name)
