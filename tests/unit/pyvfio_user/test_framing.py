"""The framing of a stream, without a socket: any cuts, bounded memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvfio_user.connection import Connection
from pyvfio_user.errors import RemoteProtocolError
from pyvfio_user.wire import HEADER, MAX_DESCRIPTORS

Found = tuple[int, bytes, int, bool]


def encode(message_id: int, payload: bytes) -> bytes:
    return struct.pack("=HHIII", message_id, 9, 16 + len(payload), 0, 0) + payload


def feed(connection: Connection, data: bytes, descriptors: list[int] | None = None) -> list[Found]:
    """Feed a chunk as a receive does; take the descriptors of what comes out."""
    found = []
    while True:
        space = connection.get_buffer()
        part, data = data[: len(space)], data[len(space) :]
        space[: len(part)] = part
        for message in connection.receive(len(part), descriptors or ()):
            count = len(message.descriptors)
            while message.descriptors:
                os.close(message.descriptors.pop())
            payload = b"" if message.oversized else bytes(message.payload)
            found.append((message.id, payload, count, message.oversized))
        descriptors = None
        if not data:
            return found


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = Connection()
    connection.limit = 200_000
    yield connection
    connection.close()


payloads = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 300_000).map(lambda size: bytes([size % 251]) * size),
)


@given(
    messages=st.lists(payloads, max_size=12),
    cuts=st.lists(st.integers(1, 100_000), min_size=1, max_size=50),
)
@settings(max_examples=200, derandomize=True, deadline=None, database=None)
def test_cuts_do_not_change_the_messages(messages: list[bytes], cuts: list[int]) -> None:
    connection = Connection()
    connection.limit = 200_000
    stream = b"".join(encode(n, payload) for n, payload in enumerate(messages))
    found: list[Found] = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += feed(connection, stream[position : position + size])
        position, turn = position + size, turn + 1
    expected: list[Found] = []
    for n, payload in enumerate(messages):
        oversized = 16 + len(payload) > connection.limit
        expected.append((n, b"" if oversized else payload, 0, oversized))
    assert found == expected
    assert len(connection.get_buffer()) <= 200_000 + 2 * 64 * 1024, "the buffer is bounded"


def test_a_message_of_4_gib_is_never_kept(connection: Connection) -> None:
    found = feed(connection, HEADER.pack(1, 9, 0xFFFFFFFF, 0, 0))
    assert found == [(1, b"", 0, True)]
    for _ in range(100):
        assert feed(connection, bytes(64 * 1024)) == []
        assert len(connection.get_buffer()) <= 64 * 1024


def test_descriptors_of_an_oversized_message_are_closed(connection: Connection) -> None:
    read_end, write_end = os.pipe()
    assert feed(connection, HEADER.pack(1, 9, 1 << 20, 0, 0)) == [(1, b"", 0, True)]
    assert feed(connection, bytes(100), [write_end]) == []
    assert os.read(read_end, 1) == b"", "the only write end is closed"
    os.close(read_end)


def test_descriptors_of_a_half_message_are_closed_at_the_end(connection: Connection) -> None:
    read_end, write_end = os.pipe()
    assert feed(connection, encode(1, b"12345678")[:-1], [write_end]) == []
    connection.close()
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_descriptors_of_a_broken_stream_are_closed(connection: Connection) -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(RemoteProtocolError):
        feed(connection, HEADER.pack(1, 9, 15, 0, 0), [write_end])
    assert os.read(read_end, 1) == b""
    os.close(read_end)


def test_a_half_message_keeps_a_bounded_number_of_descriptors(connection: Connection) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    for byte in encode(1, bytes(32))[:-1]:
        feed(connection, bytes([byte]), [os.dup(null) for _ in range(8)])
        assert len(os.listdir("/proc/self/fd")) <= before + MAX_DESCRIPTORS + 1
    assert feed(connection, b"\0") == [(1, bytes(32), MAX_DESCRIPTORS + 1, False)]
    os.close(null)
