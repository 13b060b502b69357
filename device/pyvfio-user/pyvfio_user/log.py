"""Where the library reports to: any structlog-like logger."""

from __future__ import annotations

import logging
from typing import Protocol


class Logger(Protocol):
    """An event's name, and key-value pairs; `exc_info` may hold an exception."""

    def info(self, event: str, **values: object) -> object:
        """Log an event."""
        ...

    def warning(self, event: str, **values: object) -> object:
        """Log what a peer did wrong."""
        ...

    def error(self, event: str, **values: object) -> object:
        """Log what went wrong on our side."""
        ...


class StandardLogger:
    """The same for the standard library's logging, logger `pyvfio_user`."""

    def __init__(self) -> None:
        """Use the application's configuration of `logging`."""
        self._logger = logging.getLogger("pyvfio_user")

    def info(self, event: str, **values: object) -> None:
        """Log at level INFO."""
        self._log(logging.INFO, event, values)

    def warning(self, event: str, **values: object) -> None:
        """Log at level WARNING."""
        self._log(logging.WARNING, event, values)

    def error(self, event: str, **values: object) -> None:
        """Log at level ERROR."""
        self._log(logging.ERROR, event, values)

    def _log(self, level: int, event: str, values: dict[str, object]) -> None:
        error = values.pop("exc_info", None)
        exc_info = error if isinstance(error, BaseException) else None
        text = " ".join([event, *(f"{key}={value}" for key, value in values.items())])
        self._logger.log(level, "%s", text, exc_info=exc_info)
