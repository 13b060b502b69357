"""Many receives in one system call: recvmmsg(2), which Python's socket module does not have.

Linux ends a receive behind the data that came with descriptors, so a client that sends
many DMA_MAPs in a row has each of them received by itself.  In one call they cost
less than half of that.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from .ancillary import ROOM, written

PIECES = 64
"""Receives at most in one call."""
PIECE = 512
"""Bytes of each, a multiple of the cache's lines."""

Piece = tuple[int, int, list[int], bool]
"""Where a receive's bytes begin and end; descriptors; whether the kernel lost some."""

# Linux's struct iovec, and struct mmsghdr: a struct msghdr and the length received.
_VECTOR = struct.Struct("@PN")
_HEADER = struct.Struct("@PIPNPNi0PI0P")
# Of which the kernel has written how much control data there is, flags, and the length.
_WRITTEN = struct.Struct(f"@{struct.calcsize('@PIPNP0N')}xNi0PI0P")
_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_CTRUNC)

_recvmmsg = ctypes.CDLL(None).recvmmsg
_recvmmsg.restype = ctypes.c_int
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class BulkReceiver:
    """Room for many receives.  For one thread."""

    def __init__(self) -> None:
        """Lay the room out for the kernel."""
        room = bytearray(PIECES * PIECE)
        control_room = bytearray(PIECES * ROOM)
        self._vectors = bytearray(PIECES * _VECTOR.size)  # kept: only the kernel reads it
        self._headers = bytearray(PIECES * _HEADER.size)
        data, control, vectors = map(_address, (room, control_room, self._vectors))
        for i in range(PIECES):
            _VECTOR.pack_into(self._vectors, i * _VECTOR.size, data + i * PIECE, PIECE)
            vector, rights = vectors + i * _VECTOR.size, control + i * ROOM
            header = (0, 0, vector, 1, rights, ROOM, 0, 0)
            _HEADER.pack_into(self._headers, i * _HEADER.size, *header)
        self._address = _address(self._headers)
        self._fresh = bytes(self._headers)
        self._control = memoryview(control_room)
        self.buffer = memoryview(room)

    def receive(self, descriptor: int) -> list[Piece]:
        """Receive what has come at a stream socket, without waiting, into `buffer`.

        Nothing at the stream's end and for errors: the next plain receive tells them.
        """
        self._headers[:] = self._fresh
        count = _recvmmsg(descriptor, self._address, PIECES, _FLAGS, None)
        pieces: list[Piece] = []
        if count <= 0:
            return pieces
        headers = memoryview(self._headers)[: count * _HEADER.size]
        start = at = 0
        for used, flags, length in _WRITTEN.iter_unpack(headers):
            if not length:  # the stream's end
                break
            found = written(self._control, at, used) if used else []
            pieces.append((start, start + length, found, flags & _TRUNCATED != 0))
            start += PIECE
            at += ROOM
        return pieces


def _address(room: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(room))
