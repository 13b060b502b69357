"""The framing of one byte stream, without a socket: bytes and descriptors in, messages out.

Descriptors.  Linux ends a receive after the data of the one send that carried
descriptors, so those that come with a chunk belong to the last message that
began in it, or before it.  A message begins with its first byte.

Bounds.  The buffer grows to the largest message allowed, plus one chunk.  A
longer message is thrown away as it comes: the stream stays in step.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from .errors import RemoteProtocolError
from .wire import HANDSHAKE_LIMIT, HEADER, HEADER_SIZE, MAX_DESCRIPTORS, Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK = 64 * 1024
LEAST_SPACE = 4096  # below this a receive is not worth its system call


def close_descriptor(descriptor: int) -> None:
    """Close what a client sent.

    Linux lets go of the descriptor whatever close() says; what it says is the
    file system's last word, which a client may have written itself.
    """
    try:  # noqa: SIM105 - contextlib.suppress costs more than the close
        os.close(descriptor)
    except OSError:
        pass


def close_descriptors(descriptors: list[int]) -> None:
    """Close them all and empty the list."""
    count = len(descriptors)
    if count > 1 and descriptors == list(range(descriptors[0], descriptors[0] + count)):
        # As they mostly are when they came together: one system call.
        os.closerange(descriptors[0], descriptors[0] + count)
        descriptors.clear()
    while descriptors:
        close_descriptor(descriptors.pop())


class Connection:
    """Cuts what is received into messages."""

    def __init__(self) -> None:
        """Start before the handshake: only small messages are expected."""
        self.limit = HANDSHAKE_LIMIT
        self.buffer = memoryview(bytearray(CHUNK))
        self.start = 0  # of the first message not yet handed out
        self.end = 0  # of what was received
        self._skip = 0  # bytes of an oversized message still to come
        self._descriptors: list[int] = []  # of the message at start
        self._short = False

    @property
    def is_plain(self) -> bool:
        """Whether what comes next begins a message, or continues one that is only bytes so far."""
        return not (self._skip or self._descriptors or self._short)

    @property
    def is_empty(self) -> bool:
        """Whether what comes next begins a message."""
        return self.start == self.end and self.is_plain

    def get_buffer(self) -> memoryview:
        """Return the space for the next receive; earlier payloads become invalid."""
        held = self.end - self.start
        if not held:
            self.start = self.end = 0
            return self.buffer
        needed = LEAST_SPACE
        if held >= HEADER_SIZE:
            size = HEADER.unpack_from(self.buffer, self.start)[2]
            needed = max(needed, size - held)
        if len(self.buffer) - self.end < needed:
            space = self.buffer
            if held + needed > len(space):
                space = memoryview(bytearray(held + needed + CHUNK))
            # Through bytes: the two may overlap.
            space[:held] = bytes(self.buffer[self.start : self.end])
            self.buffer, self.start, self.end = space, 0, held
        return self.buffer[self.end :]

    def receive(
        self, count: int, descriptors: Iterable[int] = (), *, short: bool = False
    ) -> Iterator[Message]:
        """Yield the messages that `count` more bytes in the buffer complete.

        `short` says that the kernel could not deliver every descriptor.  The
        iterator must be exhausted before the next receive.

        Raises RemoteProtocolError, after the good messages, when the stream
        can no longer be followed.
        """
        fresh = list(descriptors)
        self.end += count
        if self._skip:
            dropped = min(self._skip, self.end - self.start)
            self._skip -= dropped
            self.start += dropped
            if self.start == self.end:
                close_descriptors(fresh)
                return
        while self.end - self.start >= HEADER_SIZE:
            message_id, command, size, flags, error = HEADER.unpack_from(self.buffer, self.start)
            if size < HEADER_SIZE:
                close_descriptors(fresh)
                raise RemoteProtocolError(errno.EINVAL, f"message size {size}")
            stop = self.start + size
            oversized = size > self.limit
            if stop > self.end and not oversized:
                break
            payload = self.buffer[self.start + HEADER_SIZE : min(stop, self.end)]
            message = Message(
                message_id, command, flags, error, payload=payload, descriptors=self._descriptors
            )
            message.short, message.oversized = self._short, oversized
            self._descriptors, self._short = [], False
            if stop >= self.end and (fresh or short):
                self._add(message.descriptors, fresh)
                message.short |= short
                fresh, short = [], False
            if stop > self.end:
                self._skip, stop = stop - self.end, self.end
            self.start = stop
            yield message
        if fresh or short:
            self._add(self._descriptors, fresh)
            self._short |= short

    def close(self) -> None:
        """Close descriptors whose message never came whole."""
        close_descriptors(self._descriptors)

    @staticmethod
    def _add(held: list[int], fresh: list[int]) -> None:
        held += fresh
        # One more than any command takes is enough to refuse it.
        while len(held) > MAX_DESCRIPTORS + 1:
            close_descriptor(held.pop())
