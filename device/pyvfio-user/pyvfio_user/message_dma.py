"""DMA by messages to the client ("VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE").

The client translates and checks these accesses with its own IOMMU.  It
answers from its main loop, so whoever waits here must not be the thread that
answers the client: each side would wait for the other.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from . import wire
from .backing import Data
from .dirty import DirtyLog
from .errors import Access, ConnectionLost, LocalProtocolError, MessageDmaError
from .fairlock import FairLock

CHUNK = 64 * 1024  # QEMU 11.1 cuts answers of more than about 217,000 bytes
ANSWER_LIMIT = 60.0  # seconds; a client that never answers must not keep a thread for ever
IDS = 1 << 16


class _Pending:
    """A request under way."""

    __slots__ = ("answered", "command", "count", "data", "error", "iova")

    def __init__(self, command: wire.Command, iova: int, count: int) -> None:
        self.command = command
        self.iova = iova
        self.count = count
        self.answered = threading.Event()
        self.error: Exception | None = None
        self.data = b""


class MessageDma:
    """The device's access to client memory by messages.  For worker threads only."""

    def __init__(self, table_lock: FairLock, dirty: DirtyLog) -> None:
        """Start without a client.  The lock and the log are the DMA table's."""
        self._table_lock = table_lock
        self._dirty = dirty
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._next_id = 0
        self._send: Callable[[bytes], None] | None = None
        self._chunk = CHUNK
        self._protocol_thread = 0
        self.on_access: Callable[[int, int, Access], None] | None = None
        """Told of each access before it is asked for: address, size, kind."""

    def read(self, iova: int, count: int) -> bytes:
        """Read `count` bytes at a DMA address, in chunks of 64 KiB at most.

        Raises MessageDmaError when the client refuses a chunk (or has not
        answered for a minute: ETIMEDOUT), ConnectionLost without a client,
        LocalProtocolError on the protocol thread or within `dma.access`.
        """
        if self.on_access is not None:
            self.on_access(iova, count, Access.READ)
        parts = []
        for position in range(iova, iova + count, self._chunk):
            size = min(self._chunk, iova + count - position)
            request = _Pending(wire.Command.DMA_READ, position, size)
            parts.append(self._transfer(request, b""))
        return b"".join(parts)

    def write(self, iova: int, data: Data) -> None:
        """Write at a DMA address, in chunks of 64 KiB at most.

        Raises as `read`.  The chunks before a refused one are written.
        """
        view = memoryview(data).cast("B")
        if self.on_access is not None:
            self.on_access(iova, len(view), Access.WRITE)
        for start in range(0, len(view), self._chunk):
            part = view[start : start + self._chunk]
            request = _Pending(wire.Command.DMA_WRITE, iova + start, len(part))
            try:
                self._transfer(request, bytes(part))
            finally:  # whatever the answer says, it may have been written
                self._dirty.wrote(request.iova, request.count)

    # ---- the protocol's side -----------------------------------------------

    def attach(self, send: Callable[[bytes], None], max_data_xfer_size: int) -> None:
        """Use a new client.  Called on the protocol thread.

        `send` sends one message whole, from any thread, and raises
        ConnectionLost.
        """
        with self._lock:
            self._send = send
            self._chunk = min(CHUNK, max_data_xfer_size)
            self._protocol_thread = threading.get_ident()

    def detach(self) -> None:
        """The client has gone: fail what is under way."""
        with self._lock:
            self._send = None
            pending = list(self._pending.values())
            self._pending.clear()
        for request in pending:
            request.error = ConnectionLost("the client went away")
            request.answered.set()

    def receive(self, message: wire.Message) -> bool:
        """Take a reply; False if nobody waits for it."""
        with self._lock:
            request = self._pending.get(message.id)
            if request is None or request.command != message.command:
                return False
            del self._pending[message.id]
        if message.flags & wire.FLAG_ERROR:
            request.error = MessageDmaError(message.error, request.iova)
        elif not self._is_answer(request, message):
            request.error = MessageDmaError(errno.EPROTO, request.iova)
        elif request.command is wire.Command.DMA_READ:
            request.data = bytes(message.payload[wire.DMA_ACCESS.size :])
        request.answered.set()
        return True

    @staticmethod
    def _is_answer(request: _Pending, message: wire.Message) -> bool:
        """Whether the reply is for the bytes asked for.

        The specification gives the count of a DMA_WRITE's reply 4 bytes, QEMU
        sends 8: the first 4 are enough.
        """
        payload = message.payload
        if message.oversized or len(payload) < 12:
            return False
        if request.command is wire.Command.DMA_WRITE:
            address = wire.ADDRESS.unpack_from(payload)[0]
            count = wire.COUNT32.unpack_from(payload, wire.ADDRESS.size)[0]
            return bool(address == request.iova and count == request.count)
        size = wire.DMA_ACCESS.size
        if len(payload) != size + request.count:
            return False
        return bool(wire.DMA_ACCESS.unpack_from(payload) == (request.iova, request.count))

    def _transfer(self, request: _Pending, data: bytes) -> bytes:
        if threading.get_ident() == self._protocol_thread:
            raise LocalProtocolError("message DMA on the protocol thread would wait for itself")
        if self._table_lock.is_mine:
            # The client may be waiting for an unmap, which waits for that access.
            raise LocalProtocolError("message DMA within an access to the DMA table")
        with self._lock:
            send = self._send
            if send is None:
                raise ConnectionLost("no client")
            if len(self._pending) >= IDS:
                raise LocalProtocolError("too many DMA messages under way")
            while self._next_id in self._pending:
                self._next_id = (self._next_id + 1) % IDS
            message_id = self._next_id
            self._next_id = (message_id + 1) % IDS
            self._pending[message_id] = request
        payload = wire.DMA_ACCESS.pack(request.iova, request.count) + data
        try:
            send(wire.request(message_id, request.command, payload))
            if not request.answered.wait(ANSWER_LIMIT):
                request.error = MessageDmaError(errno.ETIMEDOUT, request.iova)
        finally:
            with self._lock:
                if self._pending.get(message_id) is request:
                    del self._pending[message_id]
        if request.error is not None:
            raise request.error
        return request.data
