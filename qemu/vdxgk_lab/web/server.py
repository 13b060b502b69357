"""The web server: a page, its files, and two WebSockets; for this machine only, unless told.

Nothing is done while no page is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import WSCloseCode, web
from aiohttp.http import HttpProcessingError

from vdxgk_lab.errors import LabError
from vdxgk_lab.qmp import EventLoopThread
from vdxgk_lab.trees import Tree
from vdxgk_lab.web import bridge
from vdxgk_lab.web.doorman import Doorman, Limits
from vdxgk_lab.web.feed import AdapterGone, ControlDoor, StatusFeed
from vdxgk_lab.web.files import Files
from vdxgk_lab.web.guard import Guard, add_headers

LOOPBACK = "127.0.0.1"
_HEARTBEAT_SECONDS = 30
_GOODBYE_SECONDS = 2.0
_log = logging.getLogger("vdxgk.web")
_log.setLevel(logging.ERROR)

Typing = Callable[[], AbstractContextManager[object]]
"""What carries input to the guest, entered while a viewer is connected."""


class WebServer:
    """Serves the page of one adapter, on a thread of its own; a context manager.

    ``control`` is the adapter's control door, ``novnc`` the tree of that name;
    ``machine`` what to tell of the machine, by names; ``typing`` None if what viewers
    type goes nowhere.  Raises LabError if ``port`` (0: any) of ``listen`` cannot be had.
    """

    def __init__(
        self,
        control: Path,
        novnc: Tree,
        *,
        machine: Mapping[str, str] | None = None,
        typing: Typing | None = None,
        listen: str = LOOPBACK,
        port: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self._control = control
        self._typing = typing
        self._typists = 0
        self._typing_now = contextlib.ExitStack()
        self._turn = asyncio.Lock()
        self._limits = limits or Limits()
        self.files = Files(novnc)
        self._fixed = {"machine": dict(machine or {}), "typing": typing is not None}
        self._listener = _listen(listen, port)
        host, self.port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = {shown, LOOPBACK, "localhost"} if listen == LOOPBACK else {shown}
        self.guard = Guard(names, self.port)
        self.address = f"http://{shown}:{self.port}/"
        self._cleanup = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """Where the page is, with the token that opens it."""
        return f"{self.address}?token={self.guard.token}"

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._doorman.guests)

    @property
    def viewers(self) -> int:
        """How many pages have the picture now."""
        return len(self._sockets["vnc"])

    @property
    def pages(self) -> int:
        """How many pages are told what the adapter holds."""
        return len(self._sockets["status"])

    def __enter__(self) -> Self:
        """Begin."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._listener.close)
            loop = EventLoopThread()
            stack.callback(loop.close)
            runner = loop.run(self._start())
            stack.callback(lambda: loop.run(runner.cleanup()))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hang up on everybody, and end."""
        self._cleanup.close()

    async def _start(self) -> web.AppRunner:
        self._feed = StatusFeed(self._control, self._fixed)
        self._sockets: dict[str, set[web.WebSocketResponse]] = {"status": set(), "vnc": set()}
        app = web.Application(middlewares=[self.guard.check])
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/status", self._status)
        app.router.add_get("/vnc", self._vnc)
        app.router.add_get("/{name:.*}", self.files.serve)
        app.on_shutdown.append(self._hang_up)
        runner = web.AppRunner(app, access_log=None, logger=_log, shutdown_timeout=1)
        await runner.setup()
        assert runner.server is not None
        self._doorman = Doorman(runner.server, self._limits)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._doorman, sock=self._listener)
        return runner

    # ---- the WebSockets -------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        async with self._admitted(request, "status", self._limits.pages) as page:
            # A page has nothing to say: what it sends is its end, as hanging up is.
            await bridge.first_of(page.receive(), self._tell(page))
        return page

    async def _tell(self, page: web.WebSocketResponse) -> None:
        async with contextlib.aclosing(self._feed.follow()) as patches:
            async for patch in patches:
                async with asyncio.timeout(self._limits.send_seconds):
                    await page.send_str(patch)

    async def _vnc(self, request: web.Request) -> web.StreamResponse:
        async with self._admitted(request, "vnc", self._limits.viewers) as viewer:
            try:
                path = await self._vnc_path()
                async with self._carrying_input():
                    await bridge.carry(viewer, path, self._limits.send_seconds)
            except (AdapterGone, LabError, OSError) as error:
                reason = str(error).encode()[:120]  # a close frame has room for 123 bytes
                await viewer.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason)
        return viewer

    async def _vnc_path(self) -> str:
        door = ControlDoor(self._control)
        try:
            path = (await door.ask("query-status", objects=0))["vnc"]
        finally:
            door.close()
        if not path:
            raise AdapterGone("the adapter serves no viewers: start it with --vnc PATH")
        return str(path)

    @contextlib.asynccontextmanager
    async def _admitted(
        self, request: web.Request, kind: str, limit: int
    ) -> AsyncIterator[web.WebSocketResponse]:
        sockets = self._sockets[kind]
        if len(sockets) >= limit:
            raise web.HTTPServiceUnavailable(text=f"{limit} are open already.\n")
        socket = web.WebSocketResponse(
            timeout=_GOODBYE_SECONDS,
            heartbeat=_HEARTBEAT_SECONDS,
            max_msg_size=self._limits.message_bytes,
            compress=False,
        )
        if not socket.can_prepare(request):
            raise web.HTTPUpgradeRequired(text="A WebSocket is expected here.\n")
        sockets.add(socket)
        try:
            transport = request.transport
            await socket.prepare(request)
            self._doorman.admit(transport)
            yield socket
        finally:
            sockets.discard(socket)

    @contextlib.asynccontextmanager
    async def _carrying_input(self) -> AsyncIterator[None]:
        """While one viewer or several are connected."""
        if self._typing is None:
            yield
            return
        async with self._turn:
            if not self._typists:
                await asyncio.to_thread(self._typing_now.enter_context, self._typing())
            self._typists += 1
        try:
            yield
        finally:
            async with self._turn:
                self._typists -= 1
                if not self._typists:
                    await asyncio.to_thread(self._typing_now.close)

    async def _hang_up(self, app: web.Application) -> None:
        self._server.close()
        everybody = set().union(*self._sockets.values())
        leave = (socket.close(code=WSCloseCode.GOING_AWAY) for socket in everybody)
        await asyncio.gather(*leave, return_exceptions=True)


def _is_ours(record: logging.LogRecord) -> bool:
    """What clients do wrong is their affair; what we do wrong is an error."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_log.addFilter(_is_ours)


def _listen(address: str, port: int) -> socket.socket:
    try:
        [(family, *_, place), *_] = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        listener = socket.create_server(place[:2], family=family, backlog=64)
    except OSError as error:
        raise LabError(
            f"cannot listen at port {port} of {address}: {error.strerror or error}.",
            "Choose another --port, or one address of this machine to --listen at.",
        ) from error
    listener.setblocking(False)
    return listener
