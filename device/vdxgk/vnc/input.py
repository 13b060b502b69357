"""What viewers type and point at, on its way to whoever has the guest's keyboard.

The adapter has none: a keyboard is another device of the machine.  Events wait
here until they are taken through the control door.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

ROOM = 256
"""Events kept while nobody takes them; the oldest are lost first."""
LONGEST_WAIT = 30.0


class InputQueue:
    """Events as plain data, oldest first.  For any number of threads."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=ROOM)
        self._changed = threading.Condition()

    def put(self, event: dict[str, Any]) -> None:
        """Add one; never blocks."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def take(
        self, timeout: float, connected: Callable[[], bool] = lambda: True
    ) -> list[dict[str, Any]]:
        """All that wait; if none does, those that come within ``timeout`` seconds (0 to 30).

        One who has gone meanwhile (``connected`` says so) gets none: they stay for the next.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events, min(max(timeout, 0.0), LONGEST_WAIT))
            if not connected():
                return []
            events = list(self._events)
            self._events.clear()
            return events
