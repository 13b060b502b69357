"""What the page's server does for those who may ask: the feed, the bridge, the input."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab.web_rig import LIMIT, Device, admitted, page, status_of, until, upgrade
from vdxgk.faults import Fault, FaultReason
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.web import feed
from vdxgk_lab.web.doorman import Limits
from vdxgk_lab.web.feed import exact, merge_patch
from vdxgk_lab.web.server import WebServer

Socket = aiohttp.ClientWebSocketResponse


@pytest.fixture
def device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Device]:
    yield Device(tmp_path)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def visit(web: WebServer, *visits: Callable[[Socket], Awaitable[None]], path: str) -> None:
    """Open so many WebSockets, one for each visit, and do them side by side."""

    async def go() -> None:
        async with aiohttp.ClientSession(headers=admitted(web)) as session, asyncio.timeout(LIMIT):
            await asyncio.gather(*(one(session, each) for each in visits))

    async def one(
        session: aiohttp.ClientSession, each: Callable[[Socket], Awaitable[None]]
    ) -> None:
        async with session.ws_connect(f"{web.address}{path}") as link:
            await each(link)

    asyncio.run(go())


def apply(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = apply(result.get(key), value)
    return result


async def states(link: Socket) -> AsyncIterator[dict[str, Any]]:
    """What a page knows after each message."""
    state: dict[str, Any] = {}
    async for message in link:
        state = apply(state, json.loads(message.data))
        yield state


async def wait_for(
    following: AsyncIterator[dict[str, Any]], condition: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    async for state in following:
        if condition(state):
            return state
    raise AssertionError("the feed ended")


# ---- the feed ------------------------------------------------------------------


def test_a_page_hears_of_what_changes(device: Device) -> None:
    async def watch(link: Socket) -> None:
        following = states(link)
        state = await anext(following)
        assert state["adapter"]["dma_bits"] == 32
        assert state["typing"] is False
        assert state["adapter"]["vnc"] == str(device.directory / "vnc")
        device.adapter.faults.add(Fault((1 << 64) - 1, 8, True, FaultReason.UNMAPPED))
        state = await wait_for(following, lambda state: state["adapter"]["faults"]["count"] == 1)
        [fault] = state["adapter"]["faults"]["last"]
        # JavaScript would make another number of it.
        assert (fault["address"], fault["access"]) == ("0xffffffffffffffff", "write")
        assert state["adapter"]["dma_bits"] == 32  # told once, and kept

    with device.serving(), page(device) as web:
        visit(web, watch, path="status")


def test_a_message_tells_only_what_changed(device: Device) -> None:
    async def watch(link: Socket) -> None:
        first = json.loads((await link.receive()).data)
        device.adapter.faults.add(Fault(0x1000, 8, False, FaultReason.FORBIDDEN))
        second = json.loads((await link.receive()).data)
        assert set(first["adapter"]) > {"dma_bits", "display", "objects", "faults"}
        assert set(second) == {"adapter"}
        assert set(second["adapter"]) == {"faults"}

    with device.serving(), page(device) as web:
        visit(web, watch, path="status")


def test_the_adapter_goes_and_comes_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a host so busy that every answer is slow.
    monkeypatch.setattr(feed, "_SHARE", 1e9)
    monkeypatch.setattr(feed, "LONGEST_PAUSE", feed.INTERVAL)
    process = DeviceProcess(device.directory, name="control")

    async def watch(link: Socket) -> None:
        following = states(link)
        state = await anext(following)
        assert state["gone"] == "No such file or directory"
        assert "adapter" not in state
        # Who follows answers pings, however long a start or an end takes.
        for _ in range(2):
            here = wait_for(following, lambda state: "adapter" in state)
            _, state = await asyncio.gather(asyncio.to_thread(process.__enter__), here)
            assert "gone" not in state
            gone = wait_for(following, lambda state: "gone" in state)
            await asyncio.gather(asyncio.to_thread(process.stop), gone)

    with contextlib.ExitStack() as stack:
        stack.callback(process.stop)
        web = stack.enter_context(page(device, control=process.control))
        visit(web, watch, path="status")


def test_an_answer_that_is_not_understood(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdxgk.serve.describe", lambda adapter, **limits: {"objects": 7})

    async def watch(link: Socket) -> None:
        assert "not understood" in (await anext(states(link)))["gone"]

    with device.serving(), page(device) as web:
        visit(web, watch, path="status")


def test_nobody_asks_while_nobody_looks(device: Device) -> None:
    async def watch(link: Socket) -> None:
        following = states(link)
        await anext(following)
        asked = device.questions
        while device.questions < asked + 3:
            await asyncio.sleep(0.01)

    with device.serving(), page(device) as web:
        assert device.questions == 0
        visit(web, watch, watch, path="status")
        until(lambda: web.pages == 0)
        asked = device.questions
        # Another page's first answer is proof that time has passed: it alone asked.
        visit(web, first_only, path="status")
        assert device.questions == asked + 1


async def first_only(link: Socket) -> None:
    await link.receive()


def test_integers_that_javascript_cannot_hold() -> None:
    assert exact({"a": [1 << 53, (1 << 53) - 1, True, None, 1.5, "x", {"b": -(1 << 60)}]}) == {
        "a": ["0x20000000000000", (1 << 53) - 1, True, None, 1.5, "x", {"b": "-0x1000000000000000"}]
    }


JSON = st.recursive(
    st.integers(0, 3) | st.booleans() | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from("abcd"), JSON), st.dictionaries(st.sampled_from("abcd"), JSON)
)
def test_a_patch_turns_one_state_into_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = merge_patch(old, new)
    assert apply(old, patch) == new
    if old == new:
        assert patch == {}


# ---- the bridge ----------------------------------------------------------------


async def shake_hands(link: Socket) -> None:
    """Until the server has said what the screen is."""
    assert await link.receive_bytes() == b"RFB 003.008\n"
    await link.send_bytes(b"RFB 003.008\n")
    assert await link.receive_bytes() == bytes([1, 1])
    await link.send_bytes(b"\1")
    assert await link.receive_bytes() == bytes(4)
    await link.send_bytes(b"\1")
    assert (await link.receive_bytes()).endswith(b"vdxgk")


def test_a_viewer_sees_and_types_through_the_bridge(device: Device) -> None:
    async def type_a_key(link: Socket) -> None:
        await shake_hands(link)
        await link.send_bytes(bytes([4, 1, 0, 0, 0, 0, 0, 0x61]))
        events = await asyncio.to_thread(device.typed.take, LIMIT)
        assert events == [{"type": "key", "down": True, "keysym": 0x61}]

    with device.serving(), page(device) as web:
        visit(web, type_a_key, path="vnc")
    # Gone viewers let go of their keys.
    until(lambda: device.typed.take(1) == [{"type": "key", "down": False, "keysym": 0x61}])


def test_input_is_carried_while_somebody_is_connected(device: Device) -> None:
    entered = []

    @contextlib.contextmanager
    def typing() -> Iterator[None]:
        entered.append(True)
        yield
        entered.append(False)

    both = asyncio.Barrier(2)

    async def look(link: Socket) -> None:
        await shake_hands(link)
        await both.wait()
        assert entered == [True]

    with device.serving(), page(device, typing=typing) as web:
        visit(web, look, look, path="vnc")
        until(lambda: entered == [True, False])


def test_a_viewer_is_told_why_there_is_no_picture(device: Device) -> None:
    reasons = []

    async def look(link: Socket) -> None:
        message = await link.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013)
        reasons.append(str(message.extra))

    with page(device) as web:
        visit(web, look, path="vnc")
        for vnc in (None, "nobody-listens-here"):
            with device.serving(vnc):
                visit(web, look, path="vnc")
    assert reasons[0] == "No such file or directory"
    assert "start it with --vnc PATH" in reasons[1]
    assert "No such file or directory" in reasons[2]


def test_a_viewer_who_takes_nothing_is_hung_up_on(device: Device) -> None:
    """And as long as it does not, nothing piles up: the adapter's side is not read either."""
    sent = 0

    def flood(listener: socket.socket) -> None:
        nonlocal sent
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            while True:
                sent += connection.send(bytes(1 << 16))

    with (
        contextlib.closing(socket.socket(socket.AF_UNIX)) as listener,
        device.serving("flood"),
        page(device, Limits(send_seconds=0.5)) as web,
    ):
        listener.bind(str(device.directory / "flood"))
        listener.listen()
        flooding = threading.Thread(target=flood, args=[listener])
        flooding.start()
        with upgrade(web, "/vnc", admitted(web)) as viewer:
            assert status_of(viewer) == 101
            until(lambda: web.viewers == 1)
            until(lambda: web.viewers == 0)
        flooding.join(LIMIT)
        assert not flooding.is_alive()
    assert 0 < sent < 64 << 20
