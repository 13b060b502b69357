"""The descriptors that come with a receive (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import array
import socket
import struct

from .wire import MAX_DESCRIPTORS

_INT = struct.calcsize("i")
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_HEADER = struct.Struct("@Nii")  # struct cmsghdr, <sys/socket.h>
_ONE = struct.Struct("@Niii")  # with one descriptor behind it
_ONE_SPACE, _ONE_LENGTH = socket.CMSG_SPACE(_INT), socket.CMSG_LEN(_INT)
_one_int = struct.Struct("@i").unpack

Ancillary = list[tuple[int, int, bytes]]
"""Levels, types and data, as Python's recvmsg has them."""

ROOM = socket.CMSG_SPACE((MAX_DESCRIPTORS + 1) * _INT)
"""Bytes for one descriptor more than a message may have, so that too many are noticed."""


def descriptors_of(ancillary: Ancillary) -> list[int]:
    """Return the descriptors, which are the caller's from now on."""
    if len(ancillary) == 1 and len(ancillary[0][2]) == _INT:  # every DMA_MAP brings one
        level, kind, data = ancillary[0]
        return [*_one_int(data)] if (level, kind) == _RIGHTS else []
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == _RIGHTS:
            whole = len(data) - len(data) % _INT
            descriptors += array.array("i", data[:whole])
    return descriptors


def written(control: memoryview, start: int, size: int) -> list[int]:
    """Return the descriptors of the control messages that the kernel has written there."""
    if size == _ONE_SPACE:  # mostly one, as above
        length, level, kind, number = _ONE.unpack_from(control, start)
        if length == _ONE_LENGTH and (level, kind) == _RIGHTS:
            return [number]
    ancillary = []
    rest = control[start : start + size]
    while len(rest) >= _HEADER.size:
        length, level, kind = _HEADER.unpack_from(rest)
        ancillary.append((level, kind, bytes(rest[socket.CMSG_LEN(0) : length])))
        rest = rest[socket.CMSG_SPACE(length - socket.CMSG_LEN(0)) :]
    return descriptors_of(ancillary)
