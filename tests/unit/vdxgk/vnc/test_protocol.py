"""A viewer's connection without a socket, and how pixels are sent."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vdxgk.vnc.viewer import DESKTOP_SIZE, RAW, ZRLE, TestViewer
from vdxgk.display.changes import Change
from vdxgk.display.pixels import Picture
from vdxgk.display.scanout import PixelFormat as PixelFormatInMemory
from vdxgk.vnc.pixel_format import DEFAULT, PixelFormat, PixelFormatError
from vdxgk.vnc.protocol import Connection, Event, Key, Pointer, ProtocolError, UpdateRequest

WIDTH, HEIGHT = 200, 150


class Loop:
    """A viewer and a connection, face to face."""

    def __init__(self, version: bytes = b"003.008") -> None:
        self.connection = Connection("a screen", WIDTH, HEIGHT)
        self.events: list[Event] = []
        self._sent = bytearray()
        self.viewer = TestViewer(self._receive, self._take, version)

    def _take(self, data: bytes) -> None:
        self.events += self.connection.receive(data)

    def _receive(self, count: int) -> bytes:
        self._sent += self.connection.to_send()
        assert len(self._sent) >= count
        data = bytes(self._sent[:count])
        del self._sent[:count]
        return data

    def nothing_left(self) -> bool:
        return not self._sent and not self.connection.to_send()


def change(x: int, y: int, picture: Picture, order: str = "<") -> Change:
    """A change of a picture; big-endian framebuffers take the other way through the code."""
    words = np.zeros((*picture.shape[:2], 4), np.uint8)
    if order == "<":
        words[..., 2::-1] = picture
        return Change(x, y, words.view("<u4")[..., 0], PixelFormatInMemory.XRGB8888)
    words[..., 1:] = picture
    return Change(x, y, words.view("<u4")[..., 0], PixelFormatInMemory.XRGB8888_BIG_ENDIAN)


def noise(width: int = WIDTH, height: int = HEIGHT, seed: int = 1) -> Picture:
    data = random.Random(seed).randbytes(3 * width * height)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()


@pytest.mark.parametrize("version", [b"003.003", b"003.007", b"003.008"])
def test_handshake(version: bytes) -> None:
    viewer = Loop(version).viewer
    assert (viewer.width, viewer.height, viewer.name) == (WIDTH, HEIGHT, b"a screen")
    assert viewer.server_format == DEFAULT.pack()


def test_unknown_versions_count_as_the_oldest() -> None:
    connection = Connection("", 64, 64)
    connection.receive(b"RFB 004.001\n")
    assert connection.to_send() == b"RFB 003.008\n\0\0\0\1"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", [RAW, ZRLE])
def test_pixels_arrive(encoding: int, order: str) -> None:
    loop = Loop()
    loop.viewer.encodings(99, encoding)
    loop.viewer.request(incremental=False)
    assert loop.events == [UpdateRequest(False)]
    loop.connection.update([change(0, 0, noise(), order)])
    assert np.array_equal(loop.viewer.update(), noise())
    part = noise(70, 65, seed=2)
    part[:64, :64] = (1, 2, 3)  # a tile of one colour
    loop.connection.update([change(100, 80, part, order), change(0, 0, noise(1, 1, 3), order)])
    expected = noise().copy()
    expected[80:145, 100:170] = part
    expected[0, 0] = noise(1, 1, 3)
    assert np.array_equal(loop.viewer.update(), expected)
    assert [item[4] for item in loop.viewer.rectangles] == [encoding] * 2
    assert loop.nothing_left()


def test_a_solid_screen_is_small() -> None:
    loop = Loop()
    loop.viewer.encodings(ZRLE, RAW)
    loop.connection.update([change(0, 0, np.zeros((HEIGHT, WIDTH, 3), np.uint8))])
    assert len(loop.connection.to_send()) < 100


def test_a_viewer_that_can_resize_is_told_alone() -> None:
    loop = Loop()
    loop.viewer.encodings(RAW, DESKTOP_SIZE)
    assert not loop.connection.resize(WIDTH, HEIGHT)
    assert loop.connection.resize(320, 240)
    assert loop.viewer.update().shape == (240, 320, 3)
    assert loop.viewer.rectangles == [(0, 0, 320, 240, DESKTOP_SIZE)]
    assert loop.nothing_left()


def test_a_viewer_that_cannot_gets_what_fits() -> None:
    loop = Loop()
    loop.viewer.encodings(RAW)
    assert not loop.connection.resize(320, 240)
    loop.connection.update([change(100, 100, noise(220, 140)), change(200, 0, noise(5, 5))])
    picture = loop.viewer.update()
    assert loop.viewer.rectangles == [(100, 100, 100, 50, RAW)]
    assert np.array_equal(picture[100:, 100:], noise(220, 140)[:50, :100])


def test_keys_and_pointer() -> None:
    loop = Loop()
    loop.viewer.key(True, 0x61)
    loop.viewer.key(False, 0x61)
    loop.viewer.pointer(5, 17, 300)
    assert loop.events == [Key(True, 0x61), Key(False, 0x61), Pointer(5, 17, 300)]


def test_byte_by_byte() -> None:
    connection = Connection("", WIDTH, HEIGHT)
    stream = b"RFB 003.008\n\1\1" + struct.pack(">BxH2i", 2, 2, ZRLE, DESKTOP_SIZE)
    stream += struct.pack(">B3xI", 6, 100_000) + bytes(100_000)  # a clipboard
    stream += struct.pack(">B3x", 0) + DEFAULT.pack()
    stream += struct.pack(">BxH", 2, 0) + struct.pack(">BB4H", 3, 1, 0, 0, 1, 1)
    stream += struct.pack(">BBHH", 5, 1, 2, 3) + struct.pack(">BB2xI", 4, 1, 0x61)
    events = []
    for byte in stream:
        events += connection.receive(bytes([byte]))
    assert events == [UpdateRequest(True), Pointer(1, 2, 3), Key(True, 0x61)]


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"RFB 003.008\n\2",
        b"RFB 003.008\n\1\1\x63",
        b"RFB 003.008\n\1\1" + b"\0\0\0\0" + bytes(16),
        b"RFB 003.008\n\1\1" + b"\0\0\0\0" + struct.pack(">4B3H3B3x", 8, 8, 0, 0, 1, 1, 1, 0, 0, 0),
    ],
    ids=["not RFB", "security", "message", "no format", "colour map"],
)
def test_what_is_hung_up_on(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        Connection("", 64, 64).receive(stream)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_are_understood_or_refused(pieces: list[bytes]) -> None:
    connection = Connection("", 64, 64)
    try:
        connection.receive(b"RFB 003.008\n\1\1")
        for piece in pieces:
            connection.receive(piece)
    except ProtocolError:
        pass


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize(
    ("bits", "depth", "maxima", "shifts", "compact"),
    [
        (32, 24, (255, 255, 255), (16, 8, 0), 3),
        (32, 24, (255, 255, 255), (24, 16, 8), 3),
        (32, 32, (255, 255, 255), (0, 8, 16), 4),
        (32, 30, (1023, 1023, 1023), (20, 10, 0), 4),
        (16, 16, (31, 63, 31), (11, 5, 0), 2),
        (8, 8, (7, 7, 3), (0, 3, 6), 1),
    ],
)
def test_pixel_formats(
    order: bool,
    bits: int,
    depth: int,
    maxima: tuple[int, int, int],
    shifts: tuple[int, int, int],
    compact: int,
) -> None:
    wire = struct.pack(">4B3H3B3x", bits, depth, order, 1, *maxima, *shifts)
    chosen = PixelFormat.parse(wire)
    assert chosen.pack() == wire
    picture = noise(9, 7)
    encoded = chosen.encode(change(0, 0, picture))
    assert encoded.shape == (7, 9, bits // 8)
    whole = picture.tolist()
    for y, x in ((0, 0), (3, 4), (6, 8)):
        value = sum(
            (colour * most + 127) // 255 << shift
            for colour, most, shift in zip(whole[y][x], maxima, shifts, strict=True)
        )
        expected = value.to_bytes(bits // 8, "big" if order else "little")
        assert encoded[y, x].tobytes() == expected
        short = encoded[y, x][chosen.compact].tobytes()
        assert len(short) == compact
        assert short.strip(b"\0") == expected.strip(b"\0")


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">4B3H3B3x", 24, 24, 0, 1, 255, 255, 255, 16, 8, 0),
        struct.pack(">4B3H3B3x", 32, 24, 0, 1, 0, 255, 255, 16, 8, 0),
        struct.pack(">4B3H3B3x", 32, 24, 0, 1, 254, 255, 255, 16, 8, 0),
        struct.pack(">4B3H3B3x", 32, 24, 0, 1, 255, 255, 255, 25, 8, 0),
        struct.pack(">4B3H3B3x", 32, 24, 0, 1, 255, 255, 255, 255, 8, 0),
    ],
)
def test_formats_without_sense(wire: bytes) -> None:
    with pytest.raises(PixelFormatError):
        PixelFormat.parse(wire)
