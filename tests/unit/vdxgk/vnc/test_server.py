"""The VNC server at a real socket."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog.testing

from tests.unit.vdxgk.display.test_pipe import Rig, cursor
from tests.unit.vdxgk.vnc.viewer import (
    CURSOR,
    CURSOR_WITH_ALPHA,
    DESKTOP_SIZE,
    RAW,
    ZRLE,
    SocketViewer,
)
from tests.waiting import readable, wait_for
from vdxgk.channel import layout
from vdxgk.control import ControlError
from vdxgk.display.display import Display
from vdxgk.display.edid import Mode
from vdxgk.vnc.input import InputQueue
from vdxgk.vnc.server import MAX_VIEWERS, VncServer

LIMIT = 30


class Served:
    """A display, its server, and what was typed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.display = Display(4 << 20, Mode(640, 480))
        self.typed = InputQueue()
        self.viewers: list[SocketViewer] = []
        self.server = VncServer(path, self.display, self.typed.put, structlog.get_logger())
        self.server.start()

    def connect(self) -> SocketViewer:
        self.viewers.append(SocketViewer(self.path))
        return self.viewers[-1]

    def show(self, width: int, height: int) -> None:
        values = struct.pack("<9H", width, height, 32, 1, 0, 0, 0, 0, 0)
        self.display.registers.write(0x502, values)

    def events(self, count: int) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while len(events) < count:
            some = self.typed.take(LIMIT)
            assert some, f"only {events}"
            events += some
        return events


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(str(tmp_path / "vnc.sock"))
    yield served
    served.server.stop()
    for viewer in served.viewers:
        viewer.socket.close()
    served.display.framebuffer.close()
    assert not os.path.exists(served.path)
    assert "vnc" not in {thread.name for thread in threading.enumerate()}
    # It says that its viewer has gone, and then ends.
    wait_for(
        lambda: "vnc viewer" not in {thread.name for thread in threading.enumerate()},
        "no viewer's thread is left",
    )


@pytest.fixture
def viewer(served: Served) -> SocketViewer:
    return served.connect()


def test_the_socket_is_the_users_own(served: Served) -> None:
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600


def test_a_viewer_follows_the_screen(served: Served, viewer: SocketViewer) -> None:
    viewer.encodings(ZRLE, RAW, DESKTOP_SIZE)
    assert (viewer.width, viewer.height) == (640, 480)
    viewer.request(incremental=False)
    assert not viewer.update().any()

    served.display.framebuffer.view[: 4 * 320 * 200] = os.urandom(4 * 320 * 200)
    viewer.request()
    served.show(320, 200)
    viewer.update()
    assert viewer.rectangles == [(0, 0, 320, 200, DESKTOP_SIZE)]
    viewer.request()
    assert np.array_equal(viewer.update(), served.display.picture())

    viewer.request()
    # Nothing has changed, so nothing comes; then one pixel does.
    assert not readable(viewer.socket.fileno(), 0)
    served.display.framebuffer.view[4 * (320 * 7 + 9)] ^= 0xFF
    viewer.update()
    assert viewer.rectangles == [(9, 7, 1, 1, ZRLE)]
    assert np.array_equal(viewer.picture, served.display.picture())


def test_two_viewers_see_the_same(served: Served, viewer: SocketViewer) -> None:
    other = served.connect()
    served.show(320, 200)
    served.display.framebuffer.view[:1000] = bytes(range(250)) * 4
    for each in (viewer, other):
        each.encodings(DESKTOP_SIZE)
        each.request(incremental=False)
        each.update()  # the size
        each.request()
        each.update()
    assert np.array_equal(viewer.picture, served.display.picture())
    assert np.array_equal(other.picture, served.display.picture())


def test_typing_and_pointing(served: Served, viewer: SocketViewer) -> None:
    viewer.key(True, 0x61)
    viewer.key(False, 0x61)
    viewer.key(False, 0x62)  # was never down
    viewer.pointer(1, 10_000, 20)
    pointer = {"type": "pointer", "buttons": 1, "x": 639, "y": 20, "width": 640, "height": 480}
    assert served.events(3) == [
        {"type": "key", "down": True, "keysym": 0x61},
        {"type": "key", "down": False, "keysym": 0x61},
        pointer,
    ]
    # Whoever leaves lets go.
    viewer.key(True, 0xFFE1)
    viewer.socket.close()
    assert served.events(3) == [
        {"type": "key", "down": True, "keysym": 0xFFE1},
        {"type": "key", "down": False, "keysym": 0xFFE1},
        {**pointer, "buttons": 0, "x": 639},
    ]


def test_there_is_room_for_so_many(served: Served) -> None:
    viewers = [served.connect() for _ in range(MAX_VIEWERS)]
    with socket.socket(socket.AF_UNIX) as late:
        late.settimeout(LIMIT)
        late.connect(served.path)
        assert late.recv(100) == b""
    viewers[0].request(incremental=False)
    viewers[0].update()


def test_a_hostile_viewer_is_hung_up_on_and_harms_nobody(
    served: Served, viewer: SocketViewer
) -> None:
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.settimeout(LIMIT)
        hostile.connect(served.path)
        hostile.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while hostile.recv(4096):
            pass
    viewer.request(incremental=False)
    viewer.update()


def test_stop_does_not_wait_for_a_viewer_that_takes_nothing(served: Served) -> None:
    served.show(1000, 1000)
    greedy = served.connect()
    greedy.request(incremental=False)
    # The fixture stops the server while 4 MB are on their way to nobody.
    assert readable(greedy.socket.fileno(), LIMIT)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "taken"
    if what == "file":
        path.write_text("precious")
    else:
        path = path / "missing" / "vnc"
    display = Display(4 << 20)
    with pytest.raises(ControlError):
        VncServer(str(path), display, lambda event: None, structlog.get_logger())
    display.framebuffer.close()
    assert what == "directory" or path.read_text() == "precious"


def test_typing_that_nobody_takes_is_bounded() -> None:
    queue = InputQueue()
    for number in range(1000):
        queue.put({"number": number})
    assert [event["number"] for event in queue.take(0)] == list(range(744, 1000))
    assert queue.take(0) == []


def test_a_viewer_among_many_descriptors_is_served(served: Served) -> None:
    many = [os.eventfd(0) for _ in range(1100)]
    try:
        for _ in range(2):  # the first takes the descriptor that accept() had reserved
            viewer = served.connect()
            viewer.encodings(RAW)
            viewer.request(incremental=False)
            assert viewer.update().shape == (480, 640, 3)
    finally:
        for descriptor in many:
            os.close(descriptor)


def test_a_viewer_that_draws_the_cursor_gets_its_picture(
    served: Served, viewer: SocketViewer
) -> None:
    rig = Rig()
    rig.show(width=100, height=80)
    served.display.pipe = rig.pipe
    under = rig.display.picture()
    picture = np.random.default_rng(3).integers(0, 256, (64, 64, 4), np.uint8)
    at = layout.SHARED_CURSOR_PICTURE
    rig.shared[at : at + picture.size] = picture.tobytes()
    cursor(rig, 20, 10, hot_x=4, hot_y=6)
    viewer.encodings(RAW, DESKTOP_SIZE, CURSOR)
    while viewer.cursor is None or (viewer.width, viewer.height) != (100, 80):
        viewer.request()
        viewer.update()
    assert np.array_equal(viewer.picture, under)
    hot_x, hot_y, pixels, opaque = viewer.cursor
    assert (hot_x, hot_y) == (4, 6)
    assert np.array_equal(pixels, picture[..., 2::-1])
    assert np.array_equal(opaque, picture[..., 3] >= 128)

    # Another viewer, who does not, sees it in the picture.
    other = served.connect()
    other.request(incremental=False)
    assert np.array_equal(other.update(), rig.display.picture())
    assert not np.array_equal(other.picture, under)

    cursor(rig, 20, 10, flags=0)
    while viewer.cursor[2].size:
        viewer.request()
        viewer.update()
    assert np.array_equal(viewer.picture, under)


def test_half_transparent_parts_of_a_cursor(served: Served, viewer: SocketViewer) -> None:
    """For viewers that take them; what such a one draws is what the others are shown."""
    rig = Rig()
    rig.show(width=100, height=80)
    served.display.pipe = rig.pipe
    under = rig.display.picture()
    picture = np.random.default_rng(3).integers(0, 256, (64, 64, 4), np.uint8)
    at = layout.SHARED_CURSOR_PICTURE
    rig.shared[at : at + picture.size] = picture.tobytes()
    cursor(rig, 20, 10, hot_x=4, hot_y=6)
    viewer.encodings(RAW, DESKTOP_SIZE, CURSOR, CURSOR_WITH_ALPHA)
    while viewer.translucent is None or (viewer.width, viewer.height) != (100, 80):
        viewer.request()
        viewer.update()
    assert viewer.cursor is None
    assert np.array_equal(viewer.picture, under)
    hot_x, hot_y, pixels = viewer.translucent
    assert (hot_x, hot_y) == (4, 6)
    assert np.array_equal(pixels[..., 3], picture[..., 3])
    alpha = picture[..., 3:].astype(int)
    assert np.abs(pixels[..., :3].astype(int) * 255 - picture[..., 2::-1] * alpha).max() <= 128
    # Over the screen, it is what the device itself would have drawn.
    shown = viewer.picture.astype(int)
    part = shown[10 - 6 : 10 - 6 + 64, 20 - 4 : 20 - 4 + 64]
    part[...] = pixels[..., :3] + part * (255 - alpha) / 255
    assert np.abs(shown - rig.display.picture()).max() <= 1

    cursor(rig, 20, 10, flags=0)
    while viewer.translucent[2].size:
        viewer.request()
        viewer.update()


def test_without_descriptors_viewers_wait_and_are_served_later(served: Served) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    many = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                many.append(os.eventfd(0))
        with structlog.testing.capture_logs() as said:
            for connection in waiting:  # one may get the descriptor that accept() had reserved
                connection.settimeout(LIMIT)
                connection.connect(served.path)
            wait_for(lambda: "a viewer cannot connect now" in str(said), "accept() fails", LIMIT)
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for connection in waiting:
        with connection:
            assert connection.recv(12) == b"RFB 003.008\n"
