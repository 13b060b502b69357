"""The least that Python's socket module takes for a server: floor.c's echo, in Python.

    python lean_echo.py PATH

It checks nothing, keeps nothing and takes its time for nothing: one receive for
whatever has come, one send for all its answers.  A server of ours that is below it, as
where messages with descriptors come in a row, receives otherwise.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys

_HEADER = struct.Struct("=HHIII")
_REPLY = 1
_ROOM = socket.CMSG_SPACE(4 * 16)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
# Beyond the header: bytes of the answer, by command (floor.c, reply_size).
_BEYOND = {9: bytes(20), 10: bytes(16), 3: bytes(24)}


def converse(client: socket.socket) -> None:
    """Answer until the client hangs up.  Its first byte is the size of every request."""
    first = client.recv(1)
    if not first:
        return
    size = first[0]
    buffer = memoryview(bytearray(1 << 16))
    held = 0
    while True:
        count, ancillary, _, _ = client.recvmsg_into([buffer[held:]], _ROOM, _CLOEXEC)
        if not count:
            return
        for _, _, data in ancillary:
            for descriptor in array.array("i", data):
                os.close(descriptor)
        held += count
        answers = []
        at = 0
        while held - at >= size:
            number, command, _, _, _ = _HEADER.unpack_from(buffer, at)
            beyond = _BEYOND.get(command, b"")
            header = _HEADER.pack(number, command, 16 + len(beyond), _REPLY, 0)
            answers.append(header + beyond)
            at += size
        buffer[: held - at] = bytes(buffer[at:held])
        held -= at
        if answers:
            client.sendall(b"".join(answers))


def main(path: str) -> None:
    """Serve one connection after another."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            with client:
                converse(client)


if __name__ == "__main__":
    main(sys.argv[1])
