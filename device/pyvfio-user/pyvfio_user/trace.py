"""A trace of a server's messages in a file, and the way back.

The file: a magic line, then records of a fixed part and the beginning of the
message.  A record is written by one system call, so that a process that dies
leaves whole records.  Byte order is the host's, as in the protocol.
"""

from __future__ import annotations

import enum
import errno
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import wire
from .connection import close_descriptor
from .errors import VfioUserError
from .log import Logger
from .wire import Command

MAGIC = b"pyvfio-user trace 1\n"
KEPT = 256  # bytes of a payload; a transfer's data is long, and is the guest's
DEFAULT_LIMIT = 1 << 30
"""Bytes of a trace: ten million messages and more."""

# nanoseconds since the trace began, kind, descriptors, unused, whole and kept payload
_RECORD = struct.Struct("=QBBHII")


class Kind(enum.IntEnum):
    """What a record is about."""

    RECEIVED = 0
    SENT = 1
    CONNECTED = 2
    DISCONNECTED = 3


class TraceError(VfioUserError):
    """The file is no trace, or ends within a record."""


class TraceWriter:
    """Writes a trace.  Safe to use from any thread."""

    def __init__(self, path: str, log: Logger, limit: int = DEFAULT_LIMIT) -> None:
        """Create or empty the file, private (0600), not through a symbolic link.

        When it cannot be written any more, or would grow beyond `limit` bytes, the trace
        ends and the log says so.

        Raises OSError.
        """
        self._log = log
        self._lock = threading.Lock()
        self._left = limit - len(MAGIC)
        self._ended = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path, flags, 0o600)
        self._began = time.monotonic_ns()
        try:
            os.write(self._fd, MAGIC)
        except OSError:
            close_descriptor(self._fd)
            raise

    def received(self, message: wire.Message) -> None:
        """Note a message of the client."""
        size = wire.HEADER_SIZE + len(message.payload)
        header = wire.HEADER.pack(message.id, message.command, size, message.flags, message.error)
        self._write(Kind.RECEIVED, header, message.payload, len(message.descriptors))

    def sent(self, message: bytes, descriptors: int = 0) -> None:
        """Note a message to the client."""
        view = memoryview(message)
        header, payload = view[: wire.HEADER_SIZE], view[wire.HEADER_SIZE :]
        self._write(Kind.SENT, bytes(header), payload, descriptors)

    def mark(self, kind: Kind) -> None:
        """Note that a client has come or gone."""
        self._write(kind, bytes(wire.HEADER_SIZE), memoryview(b""), 0)

    def close(self) -> None:
        """Close the file."""
        try:
            os.close(self._fd)
        except OSError as error:  # what was written may be lost, says its file system
            self._log.error("trace_ended", error=str(error))

    def _write(self, kind: Kind, header: bytes, payload: memoryview, descriptors: int) -> None:
        kept = payload[:KEPT]
        passed = time.monotonic_ns() - self._began
        record = _RECORD.pack(passed, kind, descriptors, 0, len(payload), len(kept))
        data = b"".join((record, header, kept))
        with self._lock:
            if self._ended:
                return
            self._left -= len(data)
            try:
                if self._left < 0:
                    raise OSError(errno.EFBIG, "the trace has reached its limit")
                if os.write(self._fd, data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._ended = True
                self._log.error("trace_ended", error=str(error))


@dataclass(frozen=True)
class Record:
    """A message, or the coming or going of a client.

    `time` in seconds since the trace began; `size` of the whole payload, of
    which `payload` is the beginning, in bytes.
    """

    time: float
    kind: Kind
    message_id: int
    command: int
    flags: int
    error: int
    size: int
    payload: bytes
    descriptors: int

    def __str__(self) -> str:
        """Say it in a line."""
        if self.kind in (Kind.CONNECTED, Kind.DISCONNECTED):
            return f"{self.time:12.6f}     client {self.kind.name.lower()}"
        arrow = "->" if self.kind is Kind.RECEIVED else "<-"
        words = [f"{self.time:12.6f}  {arrow} {self.message_id:5} {self._name()}"]
        if self.flags & wire.FLAG_ERROR:
            words.append(f"error {errno.errorcode.get(self.error, self.error)}")
        if self.flags & wire.FLAG_NO_REPLY:
            words.append("(no reply wanted)")
        words += self._fields()
        if self.descriptors:
            words.append(f"with {self.descriptors} descriptor{'s' * (self.descriptors > 1)}")
        return " ".join(words)

    def _name(self) -> str:
        reply = " reply" if self.flags & wire.TYPE_MASK == wire.TYPE_REPLY else ""
        try:
            return Command(self.command).name + reply
        except ValueError:
            return f"command {self.command}{reply}"

    def _fields(self) -> list[str]:
        names = FIELDS.get(self.command, ())
        fixed = wire.RULES[self.command].fields if self.command in wire.RULES else struct.Struct("")
        rest = self.payload
        words = []
        if names and len(rest) >= fixed.size:
            values = fixed.unpack_from(rest)
            words = [f"{name}={value:#x}" for name, value in zip(names, values, strict=True)]
            rest = rest[fixed.size :]
        if rest:
            missing = self.size - len(self.payload)
            words.append(f"data={rest.hex()}" + (f"... and {missing} bytes" if missing else ""))
        return words


FIELDS: dict[int, tuple[str, ...]] = {
    Command.VERSION: ("major", "minor"),
    Command.DMA_MAP: ("argsz", "flags", "offset", "address", "size"),
    Command.DMA_UNMAP: ("argsz", "flags", "address", "size"),
    Command.DEVICE_GET_INFO: ("argsz", "flags", "regions", "irqs"),
    Command.DEVICE_GET_REGION_INFO: ("argsz", "flags", "index", "cap_offset", "size", "offset"),
    Command.DEVICE_GET_REGION_IO_FDS: ("argsz", "flags", "index", "count"),
    Command.DEVICE_GET_IRQ_INFO: ("argsz", "flags", "index", "count"),
    Command.DEVICE_SET_IRQS: ("argsz", "flags", "index", "start", "count"),
    Command.REGION_READ: ("offset", "region", "count"),
    Command.REGION_WRITE: ("offset", "region", "count"),
    Command.DMA_READ: ("address", "count"),
    Command.DMA_WRITE: ("address", "count"),
    Command.REGION_WRITE_MULTI: ("count",),
    Command.DEVICE_FEATURE: ("argsz", "flags"),
    Command.MIG_DATA_READ: ("argsz", "size"),
    Command.MIG_DATA_WRITE: ("argsz", "size"),
}


def read_trace(path: str | Path) -> Iterator[Record]:
    """Yield the records of a trace, in order.  Raises OSError, TraceError."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise TraceError(f"{path} is no trace")
        while True:
            record = _read_record(file)
            if record is None:
                return
            yield record


def _read_record(file: BinaryIO) -> Record | None:
    fixed = file.read(_RECORD.size)
    if not fixed:
        return None
    header = file.read(wire.HEADER_SIZE)
    if len(fixed) < _RECORD.size or len(header) < wire.HEADER_SIZE:
        raise TraceError("the trace ends within a record")
    passed, kind, descriptors, _, size, kept = _RECORD.unpack(fixed)
    message_id, command, _, flags, error = wire.HEADER.unpack(header)
    payload = file.read(min(kept, KEPT))
    if len(payload) < kept or kind not in set(Kind):
        raise TraceError("the trace ends within a record, or is damaged")
    return Record(
        *(passed / 1e9, Kind(kind), message_id, command, flags, error, size, payload, descriptors)
    )
