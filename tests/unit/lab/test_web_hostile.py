"""The page's server against those who should not be there: each check, seen to refuse."""

from __future__ import annotations

import contextlib
import hmac
import os
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.lab.web_rig import (
    LIMIT,
    SECRET,
    UPGRADE,
    Device,
    admitted,
    connect,
    cookie,
    exchange,
    get,
    page,
    request,
    rest,
    status_of,
    until,
    upgrade,
)
from vdxgk_lab.errors import LabError
from vdxgk_lab.trees import Tree
from vdxgk_lab.web.doorman import Limits
from vdxgk_lab.web.guard import HEADERS
from vdxgk_lab.web.server import WebServer

MODULE = "/novnc/core/rfb.js"


@pytest.fixture
def device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Device]:
    device = Device(tmp_path)
    with device.serving():
        yield device
    assert not caplog.records, "strangers must not fill the log"


@pytest.fixture
def web(device: Device) -> Iterator[WebServer]:
    with page(device) as server:
        yield server


def still_serves(web: WebServer) -> None:
    answer = get(web, MODULE, {"Cookie": cookie(web)})
    assert (answer.status, answer.body) == (200, SECRET.encode())


# ---- the token ---------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/style.css", MODULE, "/status", "/vnc", "/nothing"])
def test_without_the_token_there_is_nothing(web: WebServer, path: str) -> None:
    for headers in ({}, {"Cookie": f"vdxgk-{web.port}={web.guard.token}"}, {"Cookie": "a=b"}):
        answer = get(web, path, headers)
        assert answer.status == 401
        assert b"token" in answer.body
        assert "Set-Cookie" not in answer.headers
    with upgrade(web, path, {"Origin": f"http://127.0.0.1:{web.port}"}) as connection:
        assert status_of(connection) == 401


@pytest.mark.parametrize("token", ["", "x", "%C3%A4", "A" * 32, "%00", "%ff"])
def test_another_token(web: WebServer, token: str) -> None:
    answer = get(web, f"/?token={token}")
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(web: WebServer) -> None:
    answer = get(web, f"/?token={web.guard.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    pair, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert web.guard.token not in pair
    assert get(web, "/", {"Cookie": pair}).body.startswith(b"<!doctype html>")
    # It is for the page only: elsewhere in a query it opens nothing.
    assert get(web, f"{MODULE}?token={web.guard.token}").status == 401


def test_secrets_are_compared_in_constant_time(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(given: bytes, ours: bytes) -> bool:
        compared.append(given)
        return given == ours

    monkeypatch.setattr(hmac, "compare_digest", compare)
    get(web, "/?token=guess")
    get(web, "/", {"Cookie": f"vdxgk-{web.port}=guess"})
    assert compared == [b"guess", b"guess"]


def test_two_servers_have_different_secrets(device: Device, web: WebServer) -> None:
    with page(device) as other:
        assert other.guard.token != web.guard.token
        assert get(other, f"/?token={web.guard.token}").status == 401
        value = cookie(web).partition("=")[2]
        assert get(other, "/", {"Cookie": f"vdxgk-{other.port}={value}"}).status == 401


# ---- whose page asks -----------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""],
)
def test_a_name_that_was_rebound_to_us(web: WebServer, host: str) -> None:
    headers = {"Host": host.format(port=web.port), "Cookie": cookie(web)}
    assert get(web, "/", headers).status == 421
    assert get(web, f"/?token={web.guard.token}", headers).status == 421
    with upgrade(web, "/status", {**admitted(web), **headers}) as connection:
        assert status_of(connection) == 421


def test_two_names_at_once(web: WebServer) -> None:
    ours = request(web, "/", {"Cookie": cookie(web)})
    both = ours.replace(b"\r\n\r\n", b"\r\nHost: evil.example\r\n\r\n")
    assert exchange(web, both).split()[1] in (b"400", b"421")


def test_localhost_is_our_name_too(web: WebServer) -> None:
    headers = {"Host": f"localhost:{web.port}", "Cookie": cookie(web)}
    assert get(web, "/", headers).status == 200


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1:1", ""],
)
@pytest.mark.parametrize("path", ["/status", "/vnc"])
def test_a_websocket_of_another_sites_page(web: WebServer, path: str, origin: str | None) -> None:
    headers = {"Cookie": cookie(web)}
    if origin is not None:
        headers["Origin"] = origin.format(port=web.port)
    with upgrade(web, path, headers) as connection:
        assert status_of(connection) == 403
    with upgrade(web, path, admitted(web)) as connection:
        assert status_of(connection) == 101


def test_a_fetch_of_another_sites_page(web: WebServer) -> None:
    headers = {"Cookie": cookie(web), "Origin": "http://evil.example"}
    assert get(web, "/", headers).status == 403


def test_browsers_are_told_what_not_to_do(web: WebServer) -> None:
    admission = {"Cookie": cookie(web)}
    answers = [
        get(web, "/", admission),
        get(web, "/nothing", admission),
        get(web, "/"),
        get(web, "/", {"Host": "evil.example"}),
        get(web, f"/?token={web.guard.token}"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 401, 421, 303]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name.title()] == value
        assert "Server" not in answer.headers
    policy = HEADERS["Content-Security-Policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"


def test_the_page_obeys_its_own_policy() -> None:
    static = Path(__file__).parents[3] / "qemu/vdxgk_lab/web/static"
    text = (static / "index.html").read_text()
    assert "style=" not in text
    assert not re.search(r"\son\w+=", text)
    assert text.count("<script") == text.count('<script type="module" src=') == 1
    for path in static.iterdir():
        assert "://" not in path.read_text().replace("http://www.w3.org/2000/svg", "")


# ---- what is asked for -----------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/novnc/../../../../../etc/passwd",
        "/novnc/core/..%2f..%2f..%2f..%2fcontrol",
        "//etc/passwd",
        "/static/index.html",
        "/index.html%00.js",
        "/novnc/core/",
    ],
)
def test_there_are_no_files_but_the_pages(web: WebServer, path: str) -> None:
    assert get(web, path, {"Cookie": cookie(web)}).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_there_is_nothing_to_change(web: WebServer, method: str) -> None:
    answer = get(web, "/", {"Cookie": cookie(web), "Content-Length": "0"}, method)
    assert answer.status in (400, 405)


@pytest.mark.parametrize("path", ["/status", "/vnc"])
def test_a_websocket_is_asked_for_as_one(web: WebServer, path: str) -> None:
    assert get(web, path, {"Cookie": cookie(web)}).status == 426
    headers = {**admitted(web), **UPGRADE, "Sec-WebSocket-Version": "99"}
    assert get(web, path, headers).status in (400, 426)


# ---- how much, how long, how many ------------------------------------------------


def test_a_request_has_a_size(device: Device) -> None:
    with page(device, Limits(request_bytes=20_000)) as web:
        headers = {"Cookie": cookie(web)}
        body = request(web, "/", {**headers, "Content-Length": "1000000"}, "POST")
        with connect(web) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(body + bytes(1_000_000))
            rest(connection)
        # Many headers, none of them too long by itself.
        lines = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(100))
        with connect(web) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET / HTTP/1.1\r\n" + lines)
            assert b"200" not in rest(connection)
        assert b" 400 " in exchange(web, request(web, "/", {"X": "y" * 10_000}))
        still_serves(web)


def test_a_request_has_a_time(device: Device) -> None:
    with page(device, Limits(request_seconds=0.5)) as web:
        with connect(web) as silent, connect(web) as slow:
            assert rest(silent) == b""
            # A byte now and then does not help. The send fails when the other side is gone.
            with contextlib.suppress(ConnectionError, TimeoutError):
                slow.settimeout(0.05)
                while True:
                    slow.sendall(b"G")
                    with contextlib.suppress(TimeoutError):
                        if not slow.recv(1):
                            break
        still_serves(web)


def test_whoever_does_not_read_is_cut_off(device: Device) -> None:
    with page(device, Limits(request_seconds=0.5)) as web:
        (big, kind) = b"x" * (8 << 20), "text/javascript"
        web.files.contents["big.js"] = (big, kind)
        asking = socket.socket()
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.settimeout(LIMIT)
        asking.connect(("127.0.0.1", web.port))
        with asking:
            asking.sendall(request(web, "/big.js", {"Cookie": cookie(web)}))
            until(lambda: web.connections == 0)
            assert len(rest(asking)) < len(big)
        still_serves(web)


def test_there_are_so_many_connections_and_no_more(device: Device) -> None:
    with page(device, Limits(connections=5)) as web, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(web)) for _ in range(5)]
        until(lambda: web.connections == 5)
        for _ in range(20):
            with connect(web) as refused:
                assert rest(refused) == b""
        assert web.connections == 5
        held[0].close()
        until(lambda: web.connections == 4)
        still_serves(web)


@pytest.mark.parametrize("path", ["/status", "/vnc"])
def test_there_are_so_many_websockets_and_no_more(device: Device, path: str) -> None:
    limits = Limits(pages=2, viewers=2, request_seconds=LIMIT)
    with page(device, limits) as web, contextlib.ExitStack() as stack:
        headers = admitted(web)
        for expected in (101, 101, 503, 503):
            connection = stack.enter_context(upgrade(web, path, headers))
            assert status_of(connection) == expected
        still_serves(web)


def test_a_message_has_a_size(device: Device) -> None:
    with page(device, Limits(message_bytes=1000)) as web:
        for path in ("/status", "/vnc"):
            with upgrade(web, path, admitted(web)) as connection:
                assert status_of(connection) == 101
                # Binary, masked, with a length of 2 GiB that is not sent.
                connection.sendall(bytes([0x82, 0xFF]) + (1 << 31).to_bytes(8, "big") + bytes(4))
                assert (1009).to_bytes(2, "big") in rest(connection)
        still_serves(web)


def test_a_viewer_speaks_binary(web: WebServer) -> None:
    with upgrade(web, "/vnc", admitted(web)) as connection:
        assert status_of(connection) == 101
        connection.sendall(bytes([0x81, 0x81]) + bytes(4) + b"x")  # a text message
        rest(connection)
    still_serves(web)


def test_garbage(device: Device) -> None:
    with page(device, Limits(pages=100, viewers=100)) as web:
        throw_garbage(web)
        still_serves(web)


def throw_garbage(web: WebServer) -> None:
    chance = random.Random(7)
    good = request(web, "/", {"Cookie": cookie(web)})
    for number in range(300):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if number % 3 == 0:
            data = bytearray(chance.randbytes(200))
        with connect(web) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(bytes(data))
                connection.shutdown(socket.SHUT_WR)
            rest(connection)
    socket_headers = admitted(web)
    for number in range(40):
        path = ("/status", "/vnc")[number % 2]
        with upgrade(web, path, socket_headers) as connection:
            assert status_of(connection) == 101
            with contextlib.suppress(ConnectionError):
                connection.sendall(chance.randbytes(300))
                connection.shutdown(socket.SHUT_WR)
            rest(connection)


# ---- where it listens --------------------------------------------------------------


def test_it_listens_on_loopback_unless_told(device: Device, web: WebServer) -> None:
    assert web.address == f"http://127.0.0.1:{web.port}/"
    lines = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    sockets = [line.split() for line in lines.splitlines()]
    listening = [place for _, place, _, state, *_ in sockets if state == "0A"]
    port = f":{web.port:04X}"
    assert [place for place in listening if place.endswith(port)] == [f"0100007F{port}"]


def test_a_port_that_is_taken(device: Device, web: WebServer) -> None:
    tree = Tree(device.directory / "novnc")
    with pytest.raises(LabError, match=f"cannot listen at port {web.port}"):
        WebServer(device.control, tree, port=web.port)


def test_a_server_that_ends_leaves_no_descriptor(device: Device) -> None:
    def serve_once() -> None:
        with page(device) as web, upgrade(web, "/vnc", admitted(web)) as connection:
            assert status_of(connection) == 101

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    serve_once()
    before = descriptors()
    for _ in range(5):
        serve_once()
    until(lambda: descriptors() <= before)  # a viewer's thread ends a little later
