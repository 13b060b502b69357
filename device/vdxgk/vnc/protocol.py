"""One viewer's connection, without a socket: bytes in, events out, bytes to send.

RFC 6143.  Versions 3.3, 3.7 and 3.8; no security type but None, because who
can connect was settled before.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from vdxgk.display.changes import Change
from vdxgk.display.cursor import Cursor
from vdxgk.vnc import encodings, pixel_format
from vdxgk.vnc.pixel_format import PixelFormat, PixelFormatError

VERSION = b"RFB 003.008\n"
VERSION_3_7 = b"RFB 003.007\n"
_VERSION = re.compile(rb"RFB \d{3}\.\d{3}\n")
_SECURITY_NONE = 1
_OK = 0
_DISCARD = 1 << 16

_SET_PIXEL_FORMAT, _SET_ENCODINGS, _UPDATE_REQUEST, _KEY, _POINTER, _CUT_TEXT = 0, 2, 3, 4, 5, 6
_FRAMEBUFFER_UPDATE = 0
_CURSORS = (encodings.CURSOR_WITH_ALPHA, encodings.CURSOR)  # the better one first
_NO_CURSOR = np.zeros((0, 0, 4), np.uint8)


class ProtocolError(Exception):
    """The viewer broke the protocol, or wants what we do not have: hang up."""


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """The viewer wants an update; all of the screen if not ``incremental``.

    Its rectangle is ignored: what has changed elsewhere is sent as well.
    """

    incremental: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key goes down or up.  ``keysym`` is X11's, 32 bits."""

    down: bool
    keysym: int


@dataclass(frozen=True, slots=True)
class Pointer:
    """The pointer is at ``x``, ``y`` (pixels), with ``buttons`` down: bit 0 left, 1 middle, ..."""

    buttons: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class CursorChange:
    """What the viewer's pointer is to look like; None: like nothing."""

    cursor: Cursor | None


Event = UpdateRequest | Key | Pointer


class Connection:
    """A viewer's connection.  ``receive`` raises ProtocolError; then nothing more can be said."""

    def __init__(self, name: str, width: int, height: int) -> None:
        """``name`` is for the viewer's window; sizes are those of the screen now, in pixels."""
        self.width = width
        self.height = height
        self.pixel_format: PixelFormat = pixel_format.DEFAULT
        self._name = name.encode()
        self._encoding = encodings.RAW
        self._resizes = False
        self.draws_cursor = False
        """Whether the viewer draws the cursor itself, where its own pointer is."""
        self._cursor_encoding = encodings.CURSOR
        self._zrle = encodings.Zrle()
        self._input = bytearray()
        self._output = bytearray()
        self._events: list[Event] = []
        self._parser = self._parse()
        self._wanted = next(self._parser)

    def receive(self, data: bytes) -> list[Event]:
        """Take what came; answer what it meant."""
        self._input += data
        while len(self._input) >= self._wanted:
            piece = bytes(self._input[: self._wanted])
            del self._input[: self._wanted]
            self._wanted = self._parser.send(piece)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """The viewer is gone.  The parser refers to us: without this a collector had to come."""
        self._parser.close()

    def to_send(self) -> bytearray:
        """What has to be sent now; handed out once."""
        data, self._output = self._output, bytearray()
        return data

    def resize(self, width: int, height: int) -> bool:
        """Answer an update request with a new size, after which the viewer has no pixels.

        False, and nothing is sent, if the size is as before or the viewer
        cannot change its own.
        """
        if not self._resizes or (width, height) == (self.width, self.height):
            return False
        self.width, self.height = width, height
        header = struct.pack(">4Hi", 0, 0, width, height, encodings.DESKTOP_SIZE)
        self._output += struct.pack(">BxH", _FRAMEBUFFER_UPDATE, 1) + header
        return True

    def update(self, changes: Sequence[Change], cursor: CursorChange | None = None) -> None:
        """Answer an update request with pixels; those beyond the viewer's size are left out.

        ``cursor`` is a new cursor for a viewer that draws it itself.
        """
        cropped = (change.cropped(self.width, self.height) for change in changes)
        visible = [change for change in cropped if change]
        count = len(visible) + (cursor is not None)
        self._output += struct.pack(">BxH", _FRAMEBUFFER_UPDATE, count)
        if cursor is not None:
            self._update_cursor(cursor.cursor)
        for change in visible:
            height, width = change.words.shape
            self._output += struct.pack(">4Hi", change.x, change.y, width, height, self._encoding)
            if self._encoding == encodings.ZRLE:
                self._output += self._zrle.encode(change, self.pixel_format)
            else:
                self._output += encodings.raw(change, self.pixel_format)

    def _update_cursor(self, cursor: Cursor | None) -> None:
        picture = _NO_CURSOR if cursor is None else cursor.picture
        height, width = picture.shape[:2]
        place = (cursor.hot_x, cursor.hot_y) if cursor else (0, 0)
        self._output += struct.pack(">4Hi", *place, width, height, self._cursor_encoding)
        if self._cursor_encoding == encodings.CURSOR_WITH_ALPHA:
            self._output += encodings.cursor_with_alpha(picture)
        else:
            self._output += encodings.cursor(picture, self.pixel_format)

    # ---- what comes in: each yield asks for so many bytes -------------------

    def _parse(self) -> Generator[int, bytes, None]:
        yield from self._handshake()
        while True:
            kind = (yield 1)[0]
            if kind == _SET_PIXEL_FORMAT:
                data = yield 3 + pixel_format.SIZE
                try:
                    self.pixel_format = PixelFormat.parse(data[3:])
                except PixelFormatError as error:
                    raise ProtocolError(str(error)) from error
            elif kind == _SET_ENCODINGS:
                (count,) = struct.unpack(">xH", (yield 3))
                self._choose(struct.unpack(f">{count}i", (yield 4 * count)) if count else ())
            elif kind == _UPDATE_REQUEST:
                request = yield 9
                self._events.append(UpdateRequest(bool(request[0])))
            elif kind == _KEY:
                down, keysym = struct.unpack(">B2xI", (yield 7))
                self._events.append(Key(bool(down), keysym))
            elif kind == _POINTER:
                buttons, x, y = struct.unpack(">BHH", (yield 5))
                self._events.append(Pointer(buttons, x, y))
            elif kind == _CUT_TEXT:
                (length,) = struct.unpack(">3xI", (yield 7))
                while length:  # the guest has no clipboard
                    length -= len((yield min(length, _DISCARD)))
            else:
                raise ProtocolError(f"message type {kind}")

    def _handshake(self) -> Generator[int, bytes, None]:
        self._output += VERSION
        version = yield len(VERSION)
        if not _VERSION.fullmatch(version):
            raise ProtocolError(f"version {version!r}")
        if version in (VERSION_3_7, VERSION):
            self._output += bytes([1, _SECURITY_NONE])
            if (yield 1)[0] != _SECURITY_NONE:
                raise ProtocolError("a security type that was not offered")
            if version == VERSION:
                self._output += struct.pack(">I", _OK)
        else:  # "other version numbers ... should be treated as 3.3" (7.1.1)
            self._output += struct.pack(">I", _SECURITY_NONE)
        yield 1  # shared or not: all viewers are
        self._output += struct.pack(">HH", self.width, self.height) + self.pixel_format.pack()
        self._output += struct.pack(">I", len(self._name)) + self._name

    def _choose(self, offered: tuple[int, ...]) -> None:
        known = (item for item in offered if item in (encodings.RAW, encodings.ZRLE))
        self._encoding = next(known, encodings.RAW)
        self._resizes = encodings.DESKTOP_SIZE in offered
        cursors = [item for item in _CURSORS if item in offered]
        self.draws_cursor = bool(cursors)
        self._cursor_encoding = cursors[0] if cursors else encodings.CURSOR
