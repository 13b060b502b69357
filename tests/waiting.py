"""Tests wait for conditions, never for times."""

from __future__ import annotations

import select
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], what: str, patience: float = 600.0) -> None:
    """Raises AssertionError if it does not come true within so many seconds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience:.0f} s"
        time.sleep(0.05)


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read in time; select() would stop at descriptor 1023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
