"""A viewer for tests, which shares no code with the server: RFC 6143 from the other side."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RAW, ZRLE, DESKTOP_SIZE, CURSOR, CURSOR_WITH_ALPHA = 0, 16, -223, -239, -314
LIMIT = 30

Receive = Callable[[int], bytes]
Send = Callable[[bytes], None]


class TestViewer:
    """Keeps a picture of its own, as red, green and blue bytes.

    ``receive`` answers exactly so many bytes, ``send`` takes some.
    """

    __test__ = False

    def __init__(self, receive: Receive, send: Send, version: bytes = b"003.008") -> None:
        self._receive = receive
        self._send = send
        assert receive(12) == b"RFB 003.008\n"
        send(b"RFB " + version + b"\n")
        if version == b"003.003":
            assert receive(4) == b"\0\0\0\1"
        else:
            assert receive(receive(1)[0]) == b"\1"
            send(b"\1")
            if version == b"003.008":
                assert receive(4) == bytes(4)
        send(b"\1")
        self.width, self.height = struct.unpack(">HH", receive(4))
        self.server_format = receive(16)
        self.name = receive(struct.unpack(">I", receive(4))[0])
        self.picture = np.zeros((self.height, self.width, 3), np.uint8)
        self.rectangles: list[tuple[int, int, int, int, int]] = []
        self.cursor: tuple[int, int, NDArray[np.uint8], NDArray[np.bool_]] | None = None
        """Hot spot, pixels, and which of them are opaque."""
        self.translucent: tuple[int, int, NDArray[np.uint8]] | None = None
        """Hot spot; red, green and blue, each times alpha, and alpha."""
        self._inflate = zlib.decompressobj()

    def encodings(self, *numbers: int) -> None:
        self._send(struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers))

    def request(self, incremental: bool = True) -> None:
        self._send(struct.pack(">BB4H", 3, incremental, 0, 0, self.width, self.height))

    def key(self, down: bool, keysym: int) -> None:
        self._send(struct.pack(">BBxxI", 4, down, keysym))

    def pointer(self, buttons: int, x: int, y: int) -> None:
        self._send(struct.pack(">BBHH", 5, buttons, x, y))

    def update(self) -> NDArray[np.uint8]:
        """Take one update."""
        kind, count = struct.unpack(">BxH", self._receive(4))
        assert kind == 0
        self.rectangles = []
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">4Hi", self._receive(12))
            self.rectangles.append((x, y, width, height, encoding))
            if encoding == DESKTOP_SIZE:
                self.width, self.height = width, height
                self.picture = np.full((height, width, 3), 77, np.uint8)
                continue
            if encoding == CURSOR:
                pixels = self._pixels(self._receive(4 * width * height), 4, height, width)
                row = (width + 7) // 8
                mask = np.frombuffer(self._receive(row * height), np.uint8).reshape(height, row)
                opaque = np.unpackbits(mask, axis=1)[:, :width].astype(np.bool_)
                self.cursor = (x, y, pixels, opaque)
                continue
            if encoding == CURSOR_WITH_ALPHA:
                assert struct.unpack(">i", self._receive(4)) == (RAW,)
                data = np.frombuffer(self._receive(4 * width * height), np.uint8)
                self.translucent = (x, y, data.reshape(height, width, 4))
                continue
            assert x + width <= self.width
            assert y + height <= self.height
            part = self.picture[y : y + height, x : x + width]
            if encoding == RAW:
                part[...] = self._pixels(self._receive(4 * width * height), 4, height, width)
            else:
                self._zrle(part)
        return self.picture

    def _zrle(self, part: NDArray[np.uint8]) -> None:
        (length,) = struct.unpack(">I", self._receive(4))
        data = self._inflate.decompress(self._receive(length))
        position = 0
        for y in range(0, part.shape[0], 64):
            for x in range(0, part.shape[1], 64):
                tile = part[y : y + 64, x : x + 64]
                kind = data[position]
                assert kind in (0, 1)
                size = 3 if kind else 3 * tile.shape[0] * tile.shape[1]
                pixels = data[position + 1 : position + 1 + size]
                position += 1 + size
                shape = (1, 1) if kind else tile.shape[:2]
                tile[...] = self._pixels(pixels, 3, *shape)
        assert position == len(data)

    @staticmethod
    def _pixels(data: bytes, size: int, height: int, width: int) -> NDArray[np.uint8]:
        # The server's own format: blue, green, red in memory.
        return np.frombuffer(data, np.uint8).reshape(height, width, size)[..., 2::-1]


class SocketViewer(TestViewer):
    """A viewer with a socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(path)
        super().__init__(self._exactly, self.socket.sendall)

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            received = self.socket.recv_into(rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return bytes(data)
