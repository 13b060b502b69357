"""Bounds on each TCP connection, below HTTP: how many, how long, how much.

One connection carries one request.  Whatever a client does or leaves undone, its
connection is over when its time is, unless a WebSocket has been admitted on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What clients may use.

    ``connections`` at once; ``request_bytes`` in one request, and ``request_seconds``
    from its connection to the end of its answer; ``pages`` and ``viewers``, the
    WebSockets of each kind at once; ``message_bytes`` in one message from a WebSocket;
    ``send_seconds`` until a WebSocket has taken what it is sent.
    """

    connections: int = 64
    request_bytes: int = 32 << 10
    request_seconds: float = 15.0
    pages: int = 8
    viewers: int = 4
    message_bytes: int = 64 << 10
    send_seconds: float = 20.0


class Doorman:
    """Makes the protocol of each connection, with an HTTP handler of ``make`` inside."""

    def __init__(self, make: Callable[[], asyncio.Protocol], limits: Limits) -> None:
        self._make = make
        self.limits = limits
        self.guests: dict[asyncio.BaseTransport, _Guest] = {}

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Guest(self, self._make())

    def admit(self, transport: asyncio.BaseTransport | None) -> None:
        """This connection may stay and send what it likes: it is a WebSocket of a page."""
        if transport is not None and (guest := self.guests.get(transport)):
            guest.admitted()


class _Guest(asyncio.Protocol):
    def __init__(self, doorman: Doorman, inner: asyncio.Protocol) -> None:
        self._doorman = doorman
        self._inner = inner
        self._room: int | None = doorman.limits.request_bytes
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._doorman.guests) >= self._doorman.limits.connections:
            transport.abort()
            return
        self._transport = transport
        self._doorman.guests[transport] = self
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._doorman.limits.request_seconds, transport.abort)
        self._inner.connection_made(transport)

    def admitted(self) -> None:
        self._room = None
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        if self._room is not None:
            self._room -= len(data)
            if self._room < 0:
                self._transport.abort()
                return
        self._inner.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        if self._timer:
            self._timer.cancel()
        del self._doorman.guests[self._transport]
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
