"""A connected socket that carries messages: large receives, joined sends."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING

from .ancillary import ROOM, descriptors_of
from .bulk import BulkReceiver, Piece
from .connection import Connection, close_descriptors
from .errors import ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Sequence

# Linux queues a send of up to this size as one piece, so that no receive ends
# inside one of its messages' headers: QEMU gives up on a split header.
JOIN_LIMIT = 32 * 1024
SEND_LIMIT = 10.0  # seconds; a client that takes no answers is given up

PATIENCE = 4
ASK_AGAIN = 16

_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)  # plain numbers: operators of enumerations are slow
_TRUNCATED = int(socket.MSG_CTRUNC)
_TIMEVAL = struct.Struct("@ll")

Received = tuple[int, list[int], bool]
"""Bytes, of which none is the end; descriptors; whether the kernel lost some."""


class Channel:
    """Owns one connected stream socket.  Sends from any thread, receives from one."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over a connected AF_UNIX stream socket.

        Raises ConnectionLost; who called closes the socket then.
        """
        self._socket = connected
        self._receive = connected.recvmsg_into
        self._asked = self._misses = 0
        self._send_lock = threading.Lock()
        self._set_timeout(socket.SO_SNDTIMEO, SEND_LIMIT)

    def receive(self, connection: Connection) -> Received:
        """Receive once into the connection's buffer.

        Raises TimeoutError at the deadline, else ConnectionLost.
        """
        try:
            count, ancillary, flags, _ = self._receive([connection.get_buffer()], ROOM, _CLOEXEC)
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if not ancillary and not flags & _TRUNCATED:
            return count, [], False
        return count, descriptors_of(ancillary), bool(flags & _TRUNCATED)

    def receive_more(self) -> list[Piece]:
        """Receive what has come already into `bulk`, as far as it is worth asking.

        A client that has sent nothing ahead for a while is asked now and then.
        """
        self._asked += 1
        if self._misses >= PATIENCE and self._asked % ASK_AGAIN:
            return []
        pieces = self.bulk.receive(self._socket.fileno())
        self._misses = 0 if pieces else self._misses + 1
        return pieces

    @cached_property
    def bulk(self) -> BulkReceiver:
        """Where `receive_more` receives to.  Few clients send ahead."""
        return BulkReceiver()

    def set_deadline(self, deadline: float | None) -> None:
        """Limit the next receive to a moment of time.monotonic(); None for no limit.

        Raises TimeoutError if it has passed, ConnectionLost.
        """
        left = 0.0 if deadline is None else deadline - time.monotonic()
        if left < 0 or (deadline is not None and not left):
            raise TimeoutError
        self._set_timeout(socket.SO_RCVTIMEO, left)

    def set_timeout(self, seconds: float) -> None:
        """Limit every receive; 0 for no limit."""
        self._set_timeout(socket.SO_RCVTIMEO, seconds)

    def send(self, message: bytes) -> None:
        """Send one message, or several joined.  Raises ConnectionLost."""
        self._send_lock.acquire()  # `with` costs twice as much
        try:
            self._socket.sendall(message)
        except OSError as error:
            # Part of a message may have gone: nothing can follow it.
            self.shutdown()
            raise ConnectionLost(str(error)) from error
        finally:
            self._send_lock.release()

    def send_all(self, outgoing: Sequence[tuple[bytes, tuple[int, ...]]]) -> None:
        """Send messages in order, as few sends as order and descriptors allow.

        Raises ConnectionLost.
        """
        if len(outgoing) == 1 and not outgoing[0][1]:
            self.send(outgoing[0][0])
            return
        messages, attached = zip(*outgoing, strict=True)
        if not any(attached) and sum(map(len, messages)) <= JOIN_LIMIT:
            self.send(b"".join(messages))  # which is nearly always so
            return
        joined: list[bytes] = []
        size = 0
        for message, descriptors in outgoing:
            if joined and (descriptors or size + len(message) > JOIN_LIMIT):
                self.send(b"".join(joined))
                joined, size = [], 0
            if descriptors:
                self._send_with_descriptors(message, descriptors)
            else:
                joined.append(message)
                size += len(message)
        if joined:
            self.send(joined[0] if len(joined) == 1 else b"".join(joined))

    def shutdown(self, how: int = socket.SHUT_RDWR) -> None:
        """End the conversation; whoever waits in a receive sees the end.  From any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def close(self) -> None:
        """Hang up so that the peer sees an end, not a reset.

        Unread bytes would turn the close into ECONNRESET, at which QEMU 11.1
        aborts with its guest.
        """
        hang_up(self._socket)

    def _send_with_descriptors(self, message: bytes, descriptors: tuple[int, ...]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        with self._send_lock:
            try:
                sent = self._socket.sendmsg([message], ancillary)
                if sent < len(message):
                    self._socket.sendall(message[sent:])
            except OSError as error:
                self.shutdown()
                raise ConnectionLost(str(error)) from error

    def _set_timeout(self, option: int, seconds: float) -> None:
        # Python's own timeouts cost one more system call for each message.
        whole = int(seconds)
        timeval = _TIMEVAL.pack(whole, int((seconds - whole) * 1_000_000))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, option, timeval)
        except OSError as error:
            raise ConnectionLost(str(error)) from error


def hang_up(connected: socket.socket) -> None:
    """Stop receiving, throw away what has come, close."""
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RD)
        connected.setblocking(False)
        scratch = bytearray(1 << 16)
        # Bounded: after the shutdown nothing can be added to the queue.
        while True:
            count, ancillary, _, _ = connected.recvmsg_into([scratch], ROOM, _CLOEXEC)
            close_descriptors(descriptors_of(ancillary))
            if not count:
                break
    with contextlib.suppress(OSError):
        connected.close()
