"""Logging: structlog, readable on a terminal, JSON for programs."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO

import structlog


def configure(json: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Send log lines to ``stream`` (standard error by default)."""
    out = stream or sys.stderr
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )


class RateLimit:
    """Lets ``per_second`` lines pass each second, and counts the others."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = 0
        self._passed = 0
        self.suppressed = 0

    def allow(self) -> bool:
        """Whether one more line may be written now."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._passed = 0
        if self._passed < self._per_second:
            self._passed += 1
            return True
        self.suppressed += 1
        return False
