"""Writes the log, behind the back of who reports to it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time

import structlog
from structlog.typing import FilteringBoundLogger

from vdxgk.audit.records import HEADER, MAGIC, MARK_BYTES, RECORD, Ending, Kind
from vdxgk.worker import Worker

DEFAULT_LIMIT = 256 << 20
"""Bytes of a log: 6.7 million records."""
SMALLEST_LIMIT = 4096
PENDING_LIMIT = 8 << 20
"""Bytes that wait for the disk."""
INTERVAL = 0.25
"""Seconds for which records are collected before they are written."""


class AuditError(Exception):
    """The log cannot be had; the text says why."""


class AuditWriter:
    """A log in a file.  Safe to use from any thread; nothing waits for the disk.

    When the log cannot go on, a last record and a line in the server's log
    say why, and later records are dropped: a log has an end, but never a hole.
    """

    def __init__(
        self, path: str, limit: int = DEFAULT_LIMIT, log: FilteringBoundLogger | None = None
    ) -> None:
        """Create or empty the file, private (0600), not through a symbolic link.

        `limit` is the largest size of the file, in bytes; at least 4 KiB.
        Raises AuditError.
        """
        if limit < SMALLEST_LIMIT:
            raise AuditError(f"an audit's log of {limit} bytes: give at least {SMALLEST_LIMIT}")
        self._log = log or structlog.get_logger("vdxgk.audit")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        header = HEADER.pack(MAGIC, time.time_ns(), time.monotonic_ns(), limit)
        try:
            self._fd = os.open(path, flags, 0o600)
            with contextlib.ExitStack() as opened:
                opened.callback(os.close, self._fd)
                os.write(self._fd, header)
                opened.pop_all()
        except OSError as error:
            raise AuditError(f"cannot write {path}: {error.strerror or error}") from error
        self._written = HEADER.size
        self._failed = False
        self._lock = threading.Lock()  # guards the next three, never held over a system call
        self._pending = bytearray()
        self._room = limit - HEADER.size - RECORD.size  # bytes for records before the last one
        self._ended = False
        self._closing = threading.Event()
        self._worker = Worker("audit", self._write_later, self._log)
        self._started = False

    def add(
        self,
        kind: Kind,
        first: int = 0,
        last: int = 0,
        *,
        access: int = 0,
        file: int = 0,
        offset: int = 0,
    ) -> None:
        """Note what has just happened.  Never blocks."""
        with self._lock:
            # The time is taken here, so that records are in its order.
            now = time.monotonic_ns()
            self._append(RECORD.pack(now, kind, access, file, 0, first, last, offset))

    def mark(self, text: str) -> None:
        """Note a moment, by 24 bytes of text at most; more is cut off."""
        data = text.encode()[:MARK_BYTES].decode(errors="ignore").encode().ljust(MARK_BYTES, b"\0")
        with self._lock:
            fixed = RECORD.pack(time.monotonic_ns(), Kind.MARK, 0, 0, 0, 0, 0, 0)
            self._append(fixed[:-MARK_BYTES] + data)

    def close(self) -> None:
        """Write what waits, and the end."""
        with self._lock:
            self._end(Ending.STOPPED)
        self._closing.set()
        self._worker.stop()
        self._write()
        try:
            os.close(self._fd)
        except OSError as error:  # what was written may be lost, says its file system
            self._log.error("the audit's log may be incomplete", error=str(error))

    def _append(self, record: bytes) -> None:
        if self._ended:
            return
        if len(record) > self._room:
            self._end(Ending.LIMIT)
        elif len(self._pending) >= PENDING_LIMIT:
            self._end(Ending.BEHIND)
        else:
            self._room -= len(record)
            if not self._pending:
                self._wake()
            self._pending += record

    def _end(self, why: Ending, code: int = 0) -> None:
        if self._ended:
            return
        self._ended = True
        self._pending += RECORD.pack(time.monotonic_ns(), Kind.END, why, 0, 0, code, 0, 0)
        if why is not Ending.STOPPED:
            self._wake()

    def _wake(self) -> None:
        # Not before there is something to write: a sandbox is made before there are threads.
        if not self._started:
            self._started = True
            self._worker.start()
        self._worker.wake()

    # ---- the worker ----------------------------------------------------------

    def _write_later(self) -> None:
        self._closing.wait(INTERVAL)
        self._write()

    def _write(self) -> None:
        with self._lock:
            data, self._pending = self._pending, bytearray()
        if self._failed or not data:
            return
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._fd, view, self._written)
                self._written += count
                view = view[count:]
        except OSError as error:
            self._give_up(error)
            return
        _, kind, why, *_ = RECORD.unpack(data[-RECORD.size :])
        if kind == Kind.END and why != Ending.STOPPED:
            self._log.warning("the audit's log has come to its end", why=Ending(why).name.lower())

    def _give_up(self, error: OSError) -> None:
        """End the file with a whole record, in the place of the last one: there may be no more."""
        self._failed = True
        with self._lock:
            self._ended = True
        self._log.error("the audit's log cannot be written any more", error=str(error))
        code = error.errno or errno.EIO
        end = RECORD.pack(time.monotonic_ns(), Kind.END, Ending.ERROR, 0, 0, code, 0, 0)
        whole = self._written - self._written % RECORD.size
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, whole)
            if whole > HEADER.size:
                os.pwrite(self._fd, end, whole - RECORD.size)
