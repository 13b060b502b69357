"""A web server with a real adapter behind it, in this process; and a client without manners."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.control import Command, Connected, ControlServer
from vdxgk.serve import commands
from vdxgk.vnc.input import InputQueue
from vdxgk.vnc.server import VncServer
from vdxgk_lab.trees import Tree
from vdxgk_lab.web.doorman import Limits
from vdxgk_lab.web.server import Typing, WebServer

LOG = structlog.get_logger("vdxgk")
LIMIT = 120.0
"""Seconds after which a test has failed, not the time that anything takes."""
SECRET = "MODULE-OF-NOVNC"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@dataclass
class Device:
    """An adapter's control door and its viewers' socket; no guest."""

    directory: Path
    adapter: Adapter = field(default_factory=lambda: Adapter(AdapterOptions()))
    typed: InputQueue = field(default_factory=InputQueue)
    questions: int = 0

    @property
    def control(self) -> Path:
        return self.directory / "control"

    @contextlib.contextmanager
    def serving(self, vnc: str | None = "vnc") -> Iterator[None]:
        """`vnc` is the file whose name the adapter gives for viewers."""
        path = str(self.directory / "vnc")
        named = str(self.directory / vnc) if vnc else None
        known = dict(commands(self.adapter, self.typed, vnc_path=named))
        known["query-status"] = self._counted(known["query-status"])
        control = ControlServer(str(self.control), known, LOG)
        control.start()
        viewers = VncServer(path, self.adapter.display, self.typed.put, LOG)
        viewers.start()
        try:
            yield
        finally:
            viewers.stop()
            control.stop()

    def _counted(self, command: Command) -> Command:
        def ask(arguments: Mapping[str, Any], connected: Connected) -> object:
            self.questions += 1
            return command(arguments, connected)

        return ask


@contextlib.contextmanager
def page(
    device: Device,
    limits: Limits | None = None,
    typing: Typing | None = None,
    control: Path | None = None,
) -> Iterator[WebServer]:
    """The page of a device, with one module in the place of noVNC."""
    core = device.directory / "novnc/usr/share/novnc/core"
    core.mkdir(parents=True, exist_ok=True)
    (core / "rfb.js").write_text(SECRET)
    tree = Tree(device.directory / "novnc")
    with WebServer(control or device.control, tree, limits=limits, typing=typing) as server:
        yield server


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    """What came back on a connection until the server closed it."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(web: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), LIMIT)


def exchange(web: WebServer, request: bytes) -> bytes:
    """Everything that the server says to some bytes before it hangs up."""
    with connect(web) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side hangs up."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return bytes(data)


def request(
    web: WebServer, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> bytes:
    """A request's bytes, with what `headers` adds or replaces."""
    sent = {"Host": f"127.0.0.1:{web.port}", **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def get(
    web: WebServer, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Answer:
    return parse(exchange(web, request(web, path, headers, method)))


def parse(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = (line.split(": ", 1) for line in lines)
    return Answer(int(first.split()[1]), {name.title(): value for name, value in fields}, body)


def cookie(web: WebServer) -> str:
    """The cookie that the token is exchanged for."""
    answer = get(web, f"/?token={web.guard.token}")
    assert answer.status == 303, answer
    return answer.headers["Set-Cookie"].split(";")[0]


def upgrade(web: WebServer, path: str, headers: Mapping[str, str]) -> socket.socket:
    """A connection on which a WebSocket has been asked for."""
    connection = connect(web)
    connection.sendall(request(web, path, {**UPGRADE, **headers}))
    return connection


def status_of(connection: socket.socket) -> int:
    """The status of the answer that begins on a connection."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := connection.recv(4096)):
        head += piece
    return int(head.split()[1])


def admitted(web: WebServer) -> dict[str, str]:
    """The headers of a page that may open WebSockets."""
    return {"Cookie": cookie(web), "Origin": f"http://127.0.0.1:{web.port}"}
