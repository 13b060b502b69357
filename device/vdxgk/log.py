"""Logging: structlog, readable on a terminal, JSON for programs."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict

from vdxgk.memory.limits import Quotas


def configure(
    json: bool,
    level: str = "info",
    stream: TextIO | None = None,
    lines: int = Quotas().log_lines,
) -> None:
    """Send log lines to ``stream`` (standard error by default).

    A line that cannot be written is lost; a later one tells how many were.

    ``lines``: how many of one kind in a second at most.
    """
    out = stream or sys.stderr
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            LineLimit(lines),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Unfailing(out))),
        cache_logger_on_first_use=True,
    )


class _Unfailing:
    """A disk that is full, or a pipe that nobody reads any more, costs lines and nothing else.

    Past Python's buffer, which would keep the line that failed and fail with the next one.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError):  # not a file: a test's
            self._descriptor = None
        self._lost = 0

    def write(self, text: str) -> None:
        """Write, or count."""
        try:
            if self._lost:
                self._write(f"{self._lost} lines of this log could not be written\n")
                self._lost = 0
            self._write(text)
        except OSError:
            self._lost += 1

    def flush(self) -> None:
        """Do nothing: it has gone."""

    def _write(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            return
        data = memoryview(text.encode(errors="replace"))
        while data:
            data = data[os.write(self._descriptor, data) :]


class LineLimit:
    """A processor that lets ``per_second`` lines of one kind pass each second.

    A kind is what one device says in the same words, so that a flood of one hides no
    other.  What was left out is told once the second is over, in a line of its own.
    """

    NOTE = "log lines left out"

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._second = 0
        self._passed: Counter[tuple[str, str]] = Counter()
        self._left_out: Counter[tuple[str, str]] = Counter()

    def __call__(self, logger: object, method: str, line: EventDict) -> EventDict:
        """The line; raises DropEvent if it is one too many."""
        kind = (line["event"], line.get("device", ""))
        if kind[0] == self.NOTE:
            return line
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second = second
                self._passed.clear()
            self._passed[kind] += 1
            if self._passed[kind] <= self._per_second:
                return line
            if not self._left_out:
                # The one timer: without a flood nothing wakes up.
                timer = threading.Timer(1.0, self._tell)
                timer.daemon = True
                try:
                    timer.start()
                except RuntimeError:  # out of threads: these go untold
                    raise structlog.DropEvent from None
            self._left_out[kind] += 1
        raise structlog.DropEvent

    def _tell(self) -> None:
        with self._lock:
            left_out, self._left_out = self._left_out, Counter()
        log = structlog.get_logger("vdxgk")
        for (event, device), count in left_out.items():
            of = {"device": device} if device else {}
            log.warning(self.NOTE, kind=event, count=count, **of)
