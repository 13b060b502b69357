"""Many receives in one system call, from a real socket."""

from __future__ import annotations

import array
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from pyvfio_user.bulk import PIECE, PIECES, BulkReceiver

MOST = 17  # descriptors that there is room for


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The sender, then the receiver; in the end no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    sender, receiver = socket.socketpair()
    with sender, receiver:
        yield sender, receiver
    assert len(os.listdir("/proc/self/fd")) == before


def send(sender: socket.socket, data: bytes, descriptors: int = 0) -> None:
    if not descriptors:
        sender.sendall(data)
        return
    rights = array.array("i", [sender.fileno()] * descriptors)
    sender.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def received(bulk: BulkReceiver, receiver: socket.socket) -> list[tuple[bytes, int, bool]]:
    """Bytes, how many descriptors, and whether some are missing; closes them."""
    found = []
    for start, end, descriptors, short in bulk.receive(receiver.fileno()):
        for descriptor in descriptors:
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
        found.append((bytes(bulk.buffer[start:end]), len(descriptors), short))
    return found


def test_each_send_with_a_descriptor_is_a_piece(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    bulk = BulkReceiver()
    for _ in range(3):  # the room is used again
        for i in range(PIECES + 3):
            send(sender, b"%d" % i, 1)
        found = received(bulk, receiver)
        assert found == [(b"%d" % i, 1, False) for i in range(PIECES)]
        assert received(bulk, receiver) == [(b"%d" % (PIECES + i), 1, False) for i in range(3)]


def test_nothing_there_does_not_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    assert received(BulkReceiver(), pair[1]) == []


def test_bytes_alone_come_in_full_pieces(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    data = bytes(i % 251 for i in range(3 * PIECE + 5))
    send(sender, data)
    found = received(BulkReceiver(), receiver)
    assert [len(part) for part, _, _ in found] == [PIECE, PIECE, PIECE, 5]
    assert b"".join(part for part, _, _ in found) == data
    assert not any(count or short for _, count, short in found)


@pytest.mark.parametrize("count", [2, 3, 16, MOST])
def test_several_descriptors_come_together(
    pair: tuple[socket.socket, socket.socket], count: int
) -> None:
    sender, receiver = pair
    send(sender, b"few", count)
    send(sender, b"none")
    assert received(BulkReceiver(), receiver) == [(b"few", count, False), (b"none", 0, False)]


def test_too_many_descriptors_are_cut_off(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    send(sender, b"many", MOST + 3)
    send(sender, b"one", 1)
    ((_, count, short), one) = received(BulkReceiver(), receiver)
    assert count >= MOST
    assert short
    assert one == (b"one", 1, False)


def test_descriptors_that_do_not_fit_the_process(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    send(sender, b"one", 1)
    bulk = BulkReceiver()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (receiver.fileno() + 1, hard))
    try:
        assert received(bulk, receiver) == [(b"one", 0, True)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_credentials_beside_descriptors_are_none(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A socket that was inherited may have been asked for them."""
    sender, receiver = pair
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    send(sender, b"both", 2)
    send(sender, b"credentials")
    assert received(BulkReceiver(), receiver) == [
        (b"both", 2, False),
        (b"credentials", 0, False),
    ]


def test_the_end_is_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    send(sender, b"last", 1)
    sender.shutdown(socket.SHUT_WR)
    bulk = BulkReceiver()
    assert received(bulk, receiver) == [(b"last", 1, False)]
    assert received(bulk, receiver) == []
    assert bulk.receive(-1) == []
