"""The quick way of the common requests says what the session's general way says."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio_user import Bar, ConfigSpace, Device, DeviceObserver, DmaPolicy, Mapping, hot, wire
from pyvfio_user.hot import Outgoing
from pyvfio_user.session import Session
from pyvfio_user.trace import TraceWriter
from pyvfio_user.version import Capabilities
from pyvfio_user.wire import Command
from tests.fuzz.device import GREETING, FuzzedDevice, Piece, Silent
from tests.fuzz.structured import Guest

COMMON = (Command.REGION_READ, Command.REGION_WRITE, Command.DMA_MAP, Command.DMA_UNMAP)


def common(guest: Guest) -> bytes:
    """A common request, as a client sends it, or nearly."""
    chance = guest.chance
    command = chance.choice(COMMON)
    page = chance.randrange(8) << 12
    data = b""
    if command in (Command.REGION_READ, Command.REGION_WRITE):
        offset = chance.choice([0, 4, 0xFFC, 0xFFE, 0x1000, 0x1FFC, 0x3FFC, 0x4000])
        count = chance.choice([0, 1, 2, 4, 8, 9])
        data = bytes(count) if command == Command.REGION_WRITE else b""
        values = [offset, chance.choice([0, 0, 4, 1, 7, 9]), count]
    elif command == Command.DMA_MAP:
        values = [
            chance.choice([31, 32, 32, 32, 33]),
            chance.choice([0, 1, 2, 3, 3, 3, 4]),
            page,
            page,
            chance.choice([0, 1, 2]) << 12,
        ]
    else:
        values = [
            chance.choice([23, 24, 24, 24, 99]),
            chance.choice([0, 0, 0, 1, 2]),
            page,
            1 << 12,
        ]
    payload = wire.RULES[command].fields.pack(*values) + data
    payload += chance.choice([b""] * 9 + [b"?"])
    flags = chance.choice([0] * 6 + [0x10, 0x20, 1, 2])
    size = 16 + len(payload)
    return struct.pack("=HHIII", guest.number("H"), command, size, flags, 0) + payload


def chunk(guest: Guest) -> tuple[bytes, list[int]]:
    """A few messages that come in one receive, the descriptors with the last."""
    messages = [common(guest) for _ in range(guest.chance.choice([1, 1, 2, 3, 8]))]
    if guest.chance.random() < 0.1:
        message, unsent, _ = guest.message()
        messages.append(message)
        for descriptor in unsent:
            os.close(descriptor)
    descriptors = []
    if guest.chance.random() < 0.4:
        descriptors = [guest.memory] * guest.chance.choice([1, 1, 1, 1, 2])
    return b"".join(messages), descriptors


@pytest.mark.parametrize("policy", ["tolerant", "strict"])
def test_both_ways_answer_alike(policy: DmaPolicy, tmp_path: Path) -> None:
    trace = TraceWriter(str(tmp_path / "trace"), Silent())
    with FuzzedDevice(policy) as quick, FuzzedDevice(policy, trace) as general:
        guest = Guest(7, quick.guest_memory)
        for _ in range(6000):
            data, descriptors = chunk(guest)
            cut = guest.chance.choice([0, 0, 0, guest.chance.randrange(len(data))])
            answers = []
            for device in (quick, general):
                copies = [os.dup(device.guest_memory) for _ in descriptors]
                first = device.feed(data[:cut]) if cut else []
                answers.append(first + device.feed(data[cut:], copies))
            assert joined(answers[0]) == joined(answers[1]), data
            assert places(quick) == places(general)
        assert len(quick.device.dma), "the mixture maps"
    trace.close()


def row(guest: Guest, other: int) -> list[Piece]:
    """DMA_MAPs, each with its descriptor, or DMA_UNMAPs: in a row, most of them plain."""
    chance = guest.chance
    first = chance.randrange(8)
    pages = range(first, first + chance.randrange(1, 9))

    def odd(often: float = 0.05) -> bool:
        return chance.random() < often

    pieces: list[Piece] = []
    if odd(0.5):
        for page in pages:
            argsz, flags = chance.choice([(31, 3), (32, 4), (32, 1)]) if odd() else (32, 3)
            size = 0x2000 if odd() else 0x1000
            payload = wire.DMA_MAP.pack(argsz, flags, page << 12, page << 12, size)
            message = wire.request(guest.number("H"), Command.DMA_MAP, payload)
            file = other if odd() else guest.memory
            pieces.append((message, [] if odd() else [file] * (1 + odd()), odd()))
        if odd():  # a write, of which the next message is the data
            access = wire.REGION_ACCESS.pack(0, 4, 48)
            header = wire.HEADER.pack(guest.number("H"), Command.REGION_WRITE, 80, 0, 0)
            pieces.insert(chance.randrange(len(pieces)), (header + access, [], False))
        return pieces
    requests = []
    for page in pages:
        argsz, flags = chance.choice([(23, 0), (24, 1)]) if odd() else (24, 0)
        payload = wire.DMA_UNMAP.pack(argsz, flags, page << 12, 0x2000 if odd() else 0x1000)
        message = wire.request(guest.number("H"), Command.DMA_UNMAP, payload)
        requests.append(common(guest) if odd() else message)
    return [(b"".join(requests), [guest.memory] if odd() else [], False)]


@pytest.mark.parametrize("policy", ["tolerant", "strict"])
def test_what_comes_in_a_row_is_answered_one_by_one(policy: DmaPolicy, tmp_path: Path) -> None:
    trace = TraceWriter(str(tmp_path / "trace"), Silent())
    other = os.memfd_create("other")
    os.ftruncate(other, 0x6000)
    held_before = os.listdir("/proc/self/fd")
    with (
        FuzzedDevice(policy, observer=(noted := Noted())) as quick,
        FuzzedDevice(policy, trace, observer=(wanted := Noted())) as general,
    ):
        guest = Guest(11, quick.guest_memory)
        for _ in range(6000):
            pieces = row(guest, other)
            answers = []
            for device in (quick, general):
                (data, held, short), *rest = [
                    (data, [os.dup(descriptor) for descriptor in held], short)
                    for data, held, short in pieces
                ]
                cut = guest.chance.choice([0, 0, 3])
                first = device.feed(data[:cut]) if cut else []
                found = device.feed_pieces([(data[cut:], held, short), *rest])
                answers.append(joined(first + found))
            assert answers[0] == answers[1], pieces
            assert places(quick) == places(general)
            counted = [vars(device.device.dma.statistics) for device in (quick, general)]
            assert counted[0] == counted[1]
            assert noted.calls == wanted.calls
            noted.calls.clear()
            wanted.calls.clear()
    assert os.listdir("/proc/self/fd") == held_before
    trace.close()
    os.close(other)


def test_behind_a_stream_that_is_lost_descriptors_are_closed() -> None:
    with FuzzedDevice("tolerant") as fuzzed:
        held_before = os.listdir("/proc/self/fd")
        payload = wire.DMA_MAP.pack(32, 3, 0, 0, 0x1000)
        good = wire.request(1, Command.DMA_MAP, payload)
        lost = wire.HEADER.pack(2, Command.DMA_MAP, 15, 0, 0)
        pieces = [(data, [os.dup(fuzzed.guest_memory)], False) for data in (lost, good, good)]
        assert fuzzed.feed_pieces(pieces) == []
        assert fuzzed.session.closing
        assert os.listdir("/proc/self/fd") == held_before


def joined(outgoing: list[Outgoing]) -> bytes:
    assert not any(descriptors for _, descriptors in outgoing)
    return b"".join(messages for messages, _ in outgoing)


def places(fuzzed: FuzzedDevice) -> list[tuple[int, int, int, int, int]]:
    return [
        (
            *(mapping.iova, mapping.size, mapping.access, mapping.offset),
            mapping.backing.size if mapping.backing else 0,
        )
        for mapping in fuzzed.device.dma.mappings()
    ]


class Noted(DeviceObserver):
    """What an observer is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def dma_mapped(self, mapping: Mapping) -> None:
        """Note it."""
        self.calls.append((mapping.iova, mapping.size))

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """Note it."""
        self.calls.append((iova, size, removed))


class Faulty(DeviceObserver):
    """Registers and an observer that fail."""

    def read(self, offset: int, count: int) -> bytes:
        """Fail in one of three ways."""
        if offset == 0:
            raise OSError(errno.ENXIO, "gone")
        return b"too long" if offset == 4 else bytes(1 // 0)

    def write(self, offset: int, data: bytes) -> None:
        """Fail."""
        raise ValueError

    def dma_mapped(self, mapping: Mapping) -> None:
        """Fail."""
        raise ValueError

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """Fail."""
        raise ValueError


@pytest.fixture(params=["quick", "general"])
def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    model = Faulty()
    device = Device(ConfigSpace(1, 2, 3), {0: Bar(0x1000, handler=model)}, observer=model)
    log = Silent()
    trace = TraceWriter(str(tmp_path / "trace"), log) if request.param == "general" else None
    session = Session(device, log, lambda _: None, offer=Capabilities(16, 1 << 17), trace=trace)
    feed(session, GREETING)
    yield session
    session.lost()
    if trace:
        trace.close()


def feed(session: Session, data: bytes) -> list[tuple[int, ...]]:
    """The headers of the answers."""
    session.connection.get_buffer()[: len(data)] = data
    return [wire.HEADER.unpack_from(reply) for reply, _ in session.receive(len(data))]


def test_failing_models_are_answered(faulty: Session) -> None:
    def access(offset: int, data: bytes = b"", flags: int = 0) -> tuple[int, ...] | None:
        command = Command.REGION_WRITE if data else Command.REGION_READ
        payload = wire.REGION_ACCESS.pack(offset, 0, 4) + data
        header = wire.HEADER.pack(9, command, 16 + len(payload), flags, 0)
        answers = feed(faulty, header + payload)
        assert len(answers) <= 1
        return answers[0] if answers else None

    for offset, code in ((0, errno.ENXIO), (4, errno.EIO), (8, errno.EIO)):
        assert access(offset) == (9, Command.REGION_READ, 16, 0x21, code)
    assert access(0, b"data") == (9, Command.REGION_WRITE, 16, 0x21, errno.EIO)
    assert access(0, b"data", wire.FLAG_NO_REPLY) is None


@pytest.mark.parametrize("most", [1, 2, 1024])
def test_what_reads_mean_is_forgotten_when_there_are_many(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "MOST_READS", most)
    with FuzzedDevice("tolerant") as fuzzed:
        fuzzed.device.bars[0].write(0x1000, bytes(range(256)))
        for place in (0x20, 0x28, 0x20, 0x30, 0x30, 0x28) * 2:
            for count in (1, 4):
                offset = 0x1000 + place
                access = wire.REGION_ACCESS.pack(offset, 0, count)
                request = wire.request(offset, Command.REGION_READ, access)
                data = bytes(range(place, place + count))
                reply = wire.reply(offset, Command.REGION_READ, access + data)
                assert joined(fuzzed.feed(request)) == reply


def test_a_failing_observer_changes_no_answer(faulty: Session) -> None:
    mapped = wire.request(1, Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, 0, 0x1000))
    unmapped = wire.request(2, Command.DMA_UNMAP, wire.DMA_UNMAP.pack(24, 0, 0, 0x1000))
    assert feed(faulty, mapped + unmapped) == [(1, 2, 16, 1, 0), (2, 3, 40, 1, 0)]


def test_nor_does_it_of_requests_in_a_row() -> None:
    with FuzzedDevice("tolerant", observer=Faulty()) as fuzzed:
        numbers = range(4)
        maps = [
            wire.request(i, Command.DMA_MAP, wire.DMA_MAP.pack(32, 3, 0, i << 12, 0x1000))
            for i in numbers
        ]
        pieces = [(data, [os.dup(fuzzed.guest_memory)], False) for data in maps]
        replies = b"".join(wire.reply(i, Command.DMA_MAP, b"") for i in numbers)
        assert joined(fuzzed.feed_pieces(pieces)) == replies
        unmaps = [wire.DMA_UNMAP.pack(24, 0, i << 12, 0x1000) for i in numbers]
        requests = [wire.request(i, Command.DMA_UNMAP, unmaps[i]) for i in numbers]
        replies = b"".join(wire.reply(i, Command.DMA_UNMAP, unmaps[i]) for i in numbers)
        assert joined(fuzzed.feed(b"".join(requests))) == replies
        assert not len(fuzzed.device.dma)
        assert len(fuzzed.log.errors) == 2 * len(numbers)
        fuzzed.log.errors.clear()
