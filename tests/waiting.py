"""Tests wait for conditions, never for times."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path


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


def wait_steady(pid: int) -> tuple[int, int]:
    """A server's descriptors and threads, once they stay.

    Control connections and viewers end on threads of their own, a moment after the answer.
    """
    process = Path(f"/proc/{pid}")
    looks: list[tuple[int, int]] = []

    def is_steady() -> bool:
        descriptors, threads = (len(list((process / part).iterdir())) for part in ("fd", "task"))
        looks.append((descriptors, threads))
        return len(looks) >= 10 and len(set(looks[-10:])) == 1

    wait_for(is_steady, "descriptors and threads are steady")
    return looks[-1]
