"""The server: one listening socket, one client after another.

Two threads.  `serve` runs the protocol in the caller's thread and blocks in
one receive: one system call each way for a message.  A doorman thread waits
for clients, hands one over when none is there, and hangs up on any other at
once.  Neither wakes up while nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable

from . import version
from .channel import Channel, hang_up
from .device import Device
from .errors import ConnectionLost, LocalProtocolError, ServerError
from .hot import Outgoing
from .listener import BACKLOG, Inherited, Listener
from .log import Logger, StandardLogger
from .session import Session
from .trace import DEFAULT_LIMIT, Kind, TraceWriter
from .wire import MAX_DESCRIPTORS

HANDSHAKE_SECONDS = 5.0
AGAIN_SECONDS = 1.0  # after an accept() that failed
MOST_JOINED = 64  # answers that wait for one another

Deliver = Callable[[list[Outgoing]], None]


class Server:
    """Serves a device at a socket path, or on a socket that was inherited.

    `open`, then `serve` until `stop`, which any thread and any signal handler
    may call.  `log` is a structlog-like logger; without one, events go to the
    standard logger `pyvfio_user`.
    """

    def __init__(
        self,
        device: Device,
        path: str | None = None,
        *,
        descriptor: int | None = None,
        log: Logger | None = None,
        write_multiple: bool = False,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        trace: str | None = None,
        trace_limit: int = DEFAULT_LIMIT,
    ) -> None:
        """Nothing is opened yet.

        Either `path` or `descriptor`: a listening AF_UNIX socket, or one that
        is connected to the only client, with whom `serve` ends.

        `write_multiple` offers REGION_WRITE_MULTI; some releases of QEMU then
        send every message through a queue.  A client that has not finished
        the handshake after `handshake_seconds` is dropped.  `trace` names a
        file for all messages, which `python -m pyvfio_user trace` reads; it ends
        before it grows beyond `trace_limit` bytes.
        """
        if (path is None) == (descriptor is None):
            raise LocalProtocolError("a server has either a path or a descriptor")
        self.path = f"descriptor {descriptor}" if path is None else path
        self._descriptor = descriptor
        self._device = device
        self._log = log or StandardLogger()
        self._offer = version.Capabilities(
            max_msg_fds=MAX_DESCRIPTORS,
            max_data_xfer_size=version.MAX_DATA_XFER,
            write_multiple=write_multiple,
        )
        self._handshake_seconds = handshake_seconds
        self._trace_path = trace
        self._trace_limit = trace_limit
        self._trace: TraceWriter | None = None
        self._listener: Listener | Inherited | None = None
        self._clients: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._stopping = False
        self._ended = threading.Event()  # clients are served no more
        self._latest: socket.socket | None = None  # of the clients, by the doorman
        self._latest_lock = threading.Lock()  # between the doorman's look and a close
        self._current: Channel | None = None

    def open(self) -> None:
        """Bind and listen: a client that connects from now on is served.

        Raises ServerError.
        """
        if self._listener is not None:
            raise LocalProtocolError("the server is already open")
        if self._descriptor is None:
            self._listener = Listener(self.path)
        else:
            self._listener = Inherited(self._descriptor)
        if self._trace_path is not None:
            try:
                self._trace = TraceWriter(self._trace_path, self._log, self._trace_limit)
            except OSError as error:
                self.close()
                raise ServerError(f"cannot write the trace {self._trace_path}: {error}") from error
        self._log.info("listening", path=self.path)

    def serve(self) -> None:
        """Serve one client after another until `stop`, then close and remove the socket.

        The caller's thread becomes the protocol thread: handlers and
        observers run on it.
        """
        listener = self._listener
        if listener is None:
            raise LocalProtocolError("the server is not open")
        try:
            if listener.is_listening:
                self._serve_many(listener.socket)
            elif not self._stopping:
                self._serve_client(listener.socket)
        finally:
            self._stopping = True
            with contextlib.suppress(queue.Empty):
                while True:
                    client = self._clients.get_nowait()
                    if client is not None:
                        hang_up(client)
            self.close()
            self._log.info("stopped", path=self.path)

    def _serve_many(self, listening: socket.socket) -> None:
        wake = os.eventfd(0, os.EFD_CLOEXEC)
        doorman = threading.Thread(
            target=self._receive_guests, args=(listening, wake), name="vfio-user-doorman"
        )
        try:
            doorman.start()
            while not self._stopping:
                client = self._clients.get()
                if client is not None:
                    self._serve_client(client)
        finally:
            self._ended.set()
            os.eventfd_write(wake, 1)
            if doorman.ident is not None:
                doorman.join()
            os.close(wake)

    def stop(self) -> None:
        """Make `serve` return, after the answers to all that the client has sent.

        Takes no lock, so it is safe in a signal handler and in any thread.
        """
        self._stopping = True
        self._clients.put(None)
        current = self._current
        if current is not None:
            # What is queued is still read and answered; then comes the end.
            current.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Give up a server that was opened and will not be served."""
        if self._trace is not None:
            self._trace.close()
            self._trace = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def __enter__(self) -> Server:
        """Open it."""
        self.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close it, if `serve` has not."""
        self.close()

    # ---- the doorman's thread ----------------------------------------------

    def _receive_guests(self, listening: socket.socket, wake: int) -> None:
        # Shutting an inherited socket down would end it for its owner too, so
        # the doorman waits for two things.
        listening.setblocking(False)
        stopped, either = select.poll(), select.poll()
        stopped.register(wake, select.POLLIN)
        either.register(wake, select.POLLIN)
        either.register(listening, select.POLLIN)
        while not self._ended.is_set():
            try:
                either.poll()
                if not stopped.poll(0):
                    self._receive_guest(listening.accept()[0])
            except BlockingIOError:  # somebody who shares the socket was quicker
                continue
            except OSError as error:
                # Out of descriptors, perhaps: wait until the client that has
                # them goes, instead of spinning.
                self._log.error("accept_failed", error=str(error))
                self._ended.wait(AGAIN_SECONDS)

    def _receive_guest(self, client: socket.socket) -> None:
        """Hand a client over, or hang up on it.  Raises OSError, and has hung up then."""
        try:
            welcome = not self._is_occupied() and self._clients.qsize() <= BACKLOG
        except OSError:
            hang_up(client)
            raise
        if not welcome:
            self._log.warning("second_client_refused", path=self.path)
            hang_up(client)
            return
        with self._latest_lock:
            self._latest = client
        self._clients.put(client)

    def _is_occupied(self) -> bool:
        """Whether the last client handed over is still connected."""
        with self._latest_lock:
            if self._latest is None or self._latest.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(self._latest.fileno(), 0)  # a hang-up is always reported
            return not poll.poll(0)

    # ---- the protocol thread -----------------------------------------------

    def _serve_client(self, client: socket.socket) -> None:
        try:
            channel = Channel(client)
        except ConnectionLost as error:
            self._log.error("client_given_up", path=self.path, reason=str(error))
            hang_up(client)
            return
        trace = self._trace
        deliver: Deliver = channel.send_all
        send: Callable[[bytes], None] = channel.send
        if trace is not None:
            deliver, send = _delivering(deliver, trace), _sending(send, trace)
        session = Session(
            self._device, self._log, send, offer=self._offer, deliver=deliver, trace=trace
        )
        self._current = channel
        if self._stopping:  # stop() may have come before it could see this client
            channel.shutdown(socket.SHUT_RD)
        self._log.info("client_connected", path=self.path)
        if trace is not None:
            trace.mark(Kind.CONNECTED)
        reason = "hung up"
        try:
            self._converse(channel, session, deliver)
        except TimeoutError:
            reason = "silent in the handshake"
        except ConnectionLost as error:
            reason = str(error)
        except Exception as error:
            # A bug of ours, or no memory: the next client is served.
            self._log.error("client_given_up", path=self.path, exc_info=error)
            reason = "internal error"
        finally:
            self._current = None
            session.lost()
            with self._latest_lock:
                channel.close()
            if trace is not None:
                trace.mark(Kind.DISCONNECTED)
        self._log.info("client_disconnected", path=self.path, reason=reason)

    def _converse(self, channel: Channel, session: Session, deliver: Deliver) -> None:
        deadline = time.monotonic() + self._handshake_seconds
        while not session.closing and not session.negotiated:
            channel.set_deadline(deadline)
            if not _exchange(channel, session, deliver):
                return
        channel.set_deadline(None)
        while not session.closing and _exchange(channel, session, deliver):
            pass


def _exchange(channel: Channel, session: Session, deliver: Deliver) -> bool:
    """Receive once, handle, answer; False at the end."""
    count, descriptors, short = channel.receive(session.connection)
    if not count:
        return False
    more = MOST_JOINED if descriptors else 0
    outgoing = session.receive(count, descriptors, short=short)
    # A receive ends behind a message with descriptors.  If more has come
    # meanwhile, the answers can go together.
    while more > 0 and not session.closing:
        pieces = channel.receive_more()
        if not pieces:
            break
        session.receive_many(channel.bulk.buffer, pieces, outgoing)
        more -= len(pieces)
    if outgoing:
        deliver(outgoing)
    return True


def _delivering(deliver: Deliver, trace: TraceWriter) -> Deliver:
    def traced(outgoing: list[Outgoing]) -> None:
        for message, sent in outgoing:
            trace.sent(message, len(sent))
        deliver(outgoing)

    return traced


def _sending(send: Callable[[bytes], None], trace: TraceWriter) -> Callable[[bytes], None]:
    def traced(message: bytes) -> None:
        trace.sent(message)
        send(message)

    return traced
