"""The client's role: what QEMU does, for tests and probes.

One thread.  Requests may be pipelined: `send`, `send`, ..., then `wait` for
each.  DMA messages from the server are answered from `memory` whenever the
client waits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import wire
from .channel import Channel
from .connection import Connection, close_descriptors
from .errors import ConnectionLost, RemoteProtocolError
from .irq import ACTION_TRIGGER, DATA_EVENTFD, DATA_NONE
from .region import IoEventfd
from .version import parse
from .wire import Command

if TYPE_CHECKING:
    from types import TracebackType

CAPABILITIES = {
    "max_msg_fds": wire.MAX_DESCRIPTORS,
    "max_data_xfer_size": wire.DEFAULT_MAX_DATA_XFER,
    "write_multiple": True,
}

# Answers a DMA message: the command, the address, the count and, for a write,
# the data; returns what was read.  Raises RemoteProtocolError to refuse.
DmaResponder = Callable[[Command, int, int, bytes], bytes]


@dataclass(frozen=True)
class Reply:
    """A reply: errno (0 for success), payload, and descriptors, which the taker closes."""

    error: int
    payload: bytes
    descriptors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RegionInfo:
    """What DEVICE_GET_REGION_INFO says.  `areas` are (offset, size), None without the capability.

    `descriptor` is the caller's to close; None if none came.
    """

    flags: int
    size: int
    offset: int
    areas: list[tuple[int, int]] | None
    descriptor: int | None


def refuse_dma(command: Command, address: int, count: int, data: bytes) -> bytes:
    """Refuse every DMA message, as a client without memory does."""
    raise RemoteProtocolError(errno.EFAULT, f"{command.name} of {count} at {address:#x}, {data!r}")


class Client:
    """A connection to a server."""

    def __init__(
        self, path: str, *, respond: DmaResponder = refuse_dma, timeout: float | None = 30.0
    ) -> None:
        """Connect; nothing is sent yet.  Raises OSError.

        `timeout`, in seconds, bounds each wait for a message.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(path)
        except BaseException:
            connected.close()
            raise
        self.channel = Channel(connected)
        if timeout is not None:
            self.channel.set_timeout(timeout)
        self._connection = Connection()
        self._connection.limit = (64 << 20) + 4096
        self._respond = respond
        self._next_id = 0
        self._replies: dict[int, Reply] = {}

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
        for reply in self._replies.values():
            close_descriptors(reply.descriptors)
        self._replies.clear()
        self.channel.close()

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # ---- any message -------------------------------------------------------

    def send(
        self,
        command: int,
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        *,
        no_reply: bool = False,
    ) -> int:
        """Send a request; return its ID.  Raises ConnectionLost."""
        message_id = self._next_id
        self._next_id = (message_id + 1) & 0xFFFF
        message = wire.request(message_id, command, payload, no_reply=no_reply)
        self.channel.send_all([(message, tuple(descriptors))])
        return message_id

    def wait(self, message_id: int) -> Reply:
        """Wait for the reply to a request.

        Raises ConnectionLost, TimeoutError, or RemoteProtocolError for a
        stream that cannot be followed.
        """
        while message_id not in self._replies:
            self.pump()
        return self._replies.pop(message_id)

    def call(self, command: int, payload: bytes = b"", descriptors: Sequence[int] = ()) -> Reply:
        """Send a request and wait for its reply, whatever it is."""
        return self.wait(self.send(command, payload, descriptors))

    def pump(self) -> None:
        """Receive once: keep replies, answer DMA messages.  Raises as `wait`."""
        count, descriptors, short = self.channel.receive(self._connection)
        if not count:
            raise ConnectionLost("the server hung up")
        for message in self._connection.receive(count, descriptors, short=short):
            if message.is_reply:
                error = message.error or errno.EIO if message.flags & wire.FLAG_ERROR else 0
                self._replies[message.id] = Reply(
                    error, bytes(message.payload), message.descriptors
                )
            else:
                self._answer(message)
                close_descriptors(message.descriptors)

    # ---- the protocol's commands -------------------------------------------

    def negotiate(self, capabilities: dict[str, object] | None = None) -> dict[str, object]:
        """Exchange VERSION 0.0; return the server's capabilities.

        Raises RemoteProtocolError if the server refuses, ConnectionLost if it
        hangs up.
        """
        offered = CAPABILITIES if capabilities is None else capabilities
        text = json.dumps({"capabilities": offered}).encode() + b"\0"
        payload = self._checked(Command.VERSION, struct.pack("=HH", 0, 0) + text).payload
        parse(payload)
        data = json.loads(payload[4:-1] or b"{}")
        found: dict[str, object] = data.get("capabilities", {})
        return found

    def dma_map(
        self,
        iova: int,
        size: int,
        *,
        flags: int = wire.DMA_MAP_FLAGS,
        descriptor: int | None = None,
        offset: int = 0,
    ) -> None:
        """Map a range.  Raises RemoteProtocolError with the server's errno."""
        payload = wire.DMA_MAP.pack(wire.DMA_MAP.size, flags, offset, iova, size)
        descriptors = [] if descriptor is None else [descriptor]
        self._checked(Command.DMA_MAP, payload, descriptors)

    def dma_unmap(self, iova: int, size: int, *, flags: int = 0) -> None:
        """Unmap a range.  Raises RemoteProtocolError with the server's errno."""
        payload = wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, flags, iova, size)
        self._checked(Command.DMA_UNMAP, payload)

    def device_info(self) -> tuple[int, int, int]:
        """Return flags, number of regions, number of interrupt types."""
        reply = self._checked(Command.DEVICE_GET_INFO, wire.DEVICE_INFO.pack(16, 0, 0, 0))
        _, flags, regions, irqs = wire.DEVICE_INFO.unpack_from(reply.payload)
        return flags, regions, irqs

    def region_info(self, index: int) -> RegionInfo:
        """Ask about a region, twice if it has capabilities."""
        argsz = wire.REGION_INFO.size
        for _ in range(2):  # the first answer says how much room the second takes
            request = wire.REGION_INFO.pack(argsz, 0, index, 0, 0, 0)
            reply = self._checked(Command.DEVICE_GET_REGION_INFO, request)
            fields = wire.REGION_INFO.unpack_from(reply.payload)
            if fields[0] <= argsz:
                break
            argsz = fields[0]
            close_descriptors(reply.descriptors)
        _, flags, _, cap_offset, size, offset = fields
        areas = _sparse_areas(reply.payload, cap_offset) if flags & wire.REGION_CAPS else None
        descriptor = reply.descriptors.pop(0) if reply.descriptors else None
        close_descriptors(reply.descriptors)
        return RegionInfo(flags, size, offset, areas, descriptor)

    def region_io_fds(self, index: int) -> tuple[list[IoEventfd], list[int]]:
        """Ask for the places whose writes signal eventfds, and for these, which the caller closes.

        The eventfd of a place is one of them.  Raises RemoteProtocolError.
        """
        fixed = wire.REGION_IO_FDS.size
        needed = fixed
        for _ in range(2):  # the first answer says how much room the second takes
            request = wire.REGION_IO_FDS.pack(needed, 0, index, 0)
            reply = self._checked(Command.DEVICE_GET_REGION_IO_FDS, request)
            needed = wire.REGION_IO_FDS.unpack_from(reply.payload)[0]
            if needed > fixed and len(reply.payload) == needed:
                break
            close_descriptors(reply.descriptors)
        try:
            array = wire.SUB_REGION.iter_unpack(reply.payload[fixed:])
            places = [
                IoEventfd(
                    *(offset, size, reply.descriptors[which]),
                    match if flags & wire.IOEVENTFD_DATAMATCH else None,
                )
                for offset, size, which, _, flags, _, match in array
            ]
        except (struct.error, IndexError, ValueError) as error:
            close_descriptors(reply.descriptors)
            raise RemoteProtocolError(errno.EPROTO, f"sub-regions: {error}") from error
        return places, reply.descriptors

    def irq_info(self, index: int) -> tuple[int, int]:
        """Return flags and count of an interrupt type."""
        reply = self._checked(Command.DEVICE_GET_IRQ_INFO, wire.IRQ_INFO.pack(16, 0, index, 0))
        _, flags, _, count = wire.IRQ_INFO.unpack_from(reply.payload)
        return flags, count

    def set_irqs(
        self,
        index: int,
        flags: int,
        start: int,
        count: int,
        *,
        data: bytes = b"",
        descriptors: Sequence[int] = (),
    ) -> None:
        """Set up, mask, unmask or trigger interrupts.  Raises RemoteProtocolError."""
        fixed = wire.IRQ_SET.pack(wire.IRQ_SET.size + len(data), flags, index, start, count)
        self._checked(Command.DEVICE_SET_IRQS, fixed + data, descriptors)

    def assign_eventfds(self, index: int, start: int, eventfds: Sequence[int]) -> None:
        """Give vectors their eventfds."""
        flags = DATA_EVENTFD | ACTION_TRIGGER
        self.set_irqs(index, flags, start, len(eventfds), descriptors=eventfds)

    def disable_irqs(self, index: int) -> None:
        """Take all eventfds of a type away."""
        self.set_irqs(index, DATA_NONE | ACTION_TRIGGER, 0, 0)

    def region_read(self, index: int, offset: int, count: int) -> bytes:
        """Read from a region.  Raises RemoteProtocolError with the server's errno."""
        reply = self._checked(Command.REGION_READ, wire.REGION_ACCESS.pack(offset, index, count))
        return reply.payload[wire.REGION_ACCESS.size :]

    def region_write(self, index: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write to a region; a posted write is not answered, nor are its errors."""
        payload = wire.REGION_ACCESS.pack(offset, index, len(data)) + data
        if posted:
            self.send(Command.REGION_WRITE, payload, no_reply=True)
        else:
            self._checked(Command.REGION_WRITE, payload)

    def region_write_multi(self, writes: Sequence[tuple[int, int, bytes]]) -> None:
        """Write up to 8 bytes each to many places: (region, offset, data)."""
        entries = [
            wire.WRITE_MULTI_ENTRY.pack(offset, index, len(data), data)
            for index, offset, data in writes
        ]
        payload = wire.WRITE_MULTI.pack(len(entries)) + b"".join(entries)
        self._checked(Command.REGION_WRITE_MULTI, payload)

    def reset(self) -> None:
        """Reset the device."""
        self._checked(Command.DEVICE_RESET)

    def device_feature(self, flags: int, data: bytes = b"", room: int = 0) -> bytes:
        """Probe, get or set a feature (`pyvfio_user.feature` has indices, flags, layouts).

        `room` is the size of the answer's data, if it is more than was sent.
        Raises RemoteProtocolError with the server's errno.
        """
        argsz = wire.FEATURE.size + max(room, len(data))
        reply = self._checked(Command.DEVICE_FEATURE, wire.FEATURE.pack(argsz, flags) + data)
        return reply.payload[wire.FEATURE.size :]

    def migration_read(self, size: int) -> bytes:
        """Read the next bytes of the device's state; fewer at its end.  Raises as above."""
        fixed = wire.MIGRATION_DATA.size
        reply = self._checked(Command.MIG_DATA_READ, wire.MIGRATION_DATA.pack(fixed + size, size))
        return reply.payload[fixed:]

    def migration_write(self, data: bytes) -> None:
        """Write the next bytes of the device's state.  Raises as above."""
        fixed = wire.MIGRATION_DATA.pack(wire.MIGRATION_DATA.size + len(data), len(data))
        self._checked(Command.MIG_DATA_WRITE, fixed + data)

    # ---- inner parts -------------------------------------------------------

    def _checked(
        self, command: Command, payload: bytes = b"", descriptors: Sequence[int] = ()
    ) -> Reply:
        reply = self.call(command, payload, descriptors)
        if reply.error:
            close_descriptors(reply.descriptors)
            reason = f"{command.name}: {os.strerror(reply.error)}"
            raise RemoteProtocolError(reply.error, reason)
        return reply

    def _answer(self, message: wire.Message) -> None:
        try:
            fields = wire.decode(message)
            if message.command not in (Command.DMA_READ, Command.DMA_WRITE):
                raise RemoteProtocolError(errno.ENOSYS, "not a command for a client")
            address, count = fields
            command = Command(message.command)
            data = bytes(message.payload[wire.DMA_ACCESS.size :])
            found = self._respond(command, address, count, data)
            reply = wire.reply(
                message.id, message.command, wire.DMA_ACCESS.pack(address, count) + found
            )
        except RemoteProtocolError as error:
            reply = wire.error_reply(message.id, message.command, error.errno)
        if message.wants_reply:
            with contextlib.suppress(ConnectionLost):
                self.channel.send(reply)


def _sparse_areas(payload: bytes, offset: int) -> list[tuple[int, int]] | None:
    """Find the sparse mmap capability in a reply; offsets only ever grow, so this ends."""
    while offset and offset + wire.CAP_HEADER.size <= len(payload):
        kind, _version, following = wire.CAP_HEADER.unpack_from(payload, offset)
        offset += wire.CAP_HEADER.size
        if kind == wire.REGION_CAP_SPARSE_MMAP and offset + wire.SPARSE_MMAP.size <= len(payload):
            count, _ = wire.SPARSE_MMAP.unpack_from(payload, offset)
            offset += wire.SPARSE_MMAP.size
            array = payload[offset : offset + count * wire.SPARSE_MMAP_AREA.size]
            whole = len(array) - len(array) % wire.SPARSE_MMAP_AREA.size
            return list(wire.SPARSE_MMAP_AREA.iter_unpack(array[:whole]))
        if following < offset:
            break
        offset = following
    return None
