"""What a fuzzer feeds with bytes: a session, the DMA table, a guest's channel.

Each target reads its input as a small program, so that every input means
something, and raises AssertionError when a promise is broken.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from pyvfio_user import Access, DmaFault, DmaPolicy, DmaTable, RemoteProtocolError
from pyvfio_user.bulk import PIECES
from pyvfio_user.connection import close_descriptors
from pyvfio_user.hot import Outgoing
from pyvfio_user.wire import RULES

from .device import FuzzedDevice, Piece
from .hostile_guest import torment

PAGE = 0x1000
COMMANDS = [*RULES, 0, 14, 0xFFFF]
IN_A_ROW = 0x20  # in the byte that says how: with the next message
RAW = 0xC0  # from here on a chunk of the stream instead of a message


class Program:
    """Bytes, taken one after another; zero when there are no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def byte(self) -> int:
        """Take one."""
        return self.take(1).ljust(1, b"\0")[0]

    def take(self, count: int) -> bytes:
        """Take so many, or what there is."""
        self._position += count
        return self._data[self._position - count : self._position]


def session(data: bytes) -> int:
    """Feed a session with messages, whole or in parts, and chunks of nonsense.

    Returns the number of messages.
    """
    program = Program(data)
    policy: DmaPolicy = "strict" if program.byte() & 1 else "tolerant"
    before = len(os.listdir("/proc/self/fd"))
    messages = 0
    in_step = True  # no nonsense has been sent yet
    row: list[Piece] = []  # messages that will have come in one call
    due = 0
    with FuzzedDevice(policy) as fuzzed:
        while program and not fuzzed.session.closing:
            operation = program.byte()
            if operation >= RAW:
                fuzzed.feed(program.take(program.byte()))
                in_step = False
                continue
            messages += 1
            piece, is_due = _message(program, operation, fuzzed.guest_memory)
            row.append(piece)
            due += is_due
            if piece[0][0] & IN_A_ROW and len(row) < PIECES and program:
                continue
            if len(row) == 1:
                message, descriptors, _ = piece
                cut = program.byte() % len(message) if operation & 0x80 else 0
                outgoing = fuzzed.feed(message[:cut]) if cut else []
                outgoing = outgoing + fuzzed.feed(message[cut:], descriptors)
            else:
                outgoing = fuzzed.feed_pieces(row)
            assert not in_step or _count(outgoing) == due, row
            row, due = [], 0
        for _, descriptors, _ in row:
            close_descriptors(descriptors)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"
    return messages


def _count(outgoing: list[Outgoing]) -> int:
    """Check the answers' headers."""
    count = 0
    for replies, _ in outgoing:
        rest = replies
        while rest:
            _, _, size, flags, error = struct.unpack_from("=HHIII", rest)
            assert 16 <= size <= len(rest)
            assert flags == (0x21 if error else 1)
            rest = rest[size:]
            count += 1
    return count


def _message(program: Program, operation: int, memory: int) -> tuple[Piece, bool]:
    """A message, and whether an answer is due."""
    command = COMMANDS[operation % len(COMMANDS)]
    how = program.byte()
    payload = bytearray(program.take(program.byte()))
    rule = RULES.get(command)
    if how & 1 and rule is not None:
        # Messages of the right size, with the right argsz, get further.
        if len(payload) < rule.fields.size:
            payload = payload.ljust(rule.fields.size, b"\0")
        if rule.fields.format[1:2] == "I":
            struct.pack_into("=I", payload, 0, len(payload))
    flags = 0x10 if how & 2 else 0
    descriptors = [os.dup(memory) if how & 0x10 else os.eventfd(0) for _ in range(how >> 2 & 3)]
    header = struct.pack("=HHIII", how, command, 16 + len(payload), flags, 0)
    return (header + payload, descriptors, False), not flags


@dataclass(frozen=True)
class Page:
    """What the model knows of a mapped page."""

    access: Access
    place: int | None  # in the file, in pages; None without a descriptor


PAGES = 64
BASES = (0, 1 << 32, (1 << 64) - PAGES * PAGE)


def table(data: bytes) -> int:
    """Map, unmap and access pages, and compare the tolerant table with a list of them.

    Returns the number of operations.
    """
    program = Program(data)
    base = BASES[program.byte() % len(BASES)]
    memory = os.memfd_create("guest")
    os.ftruncate(memory, 2 * PAGES * PAGE)
    dma = DmaTable()
    model: list[Page | None] = [None] * PAGES
    operations = 0
    while program:
        operations += 1
        kind, first, count = program.byte(), program.byte() % PAGES, program.byte() % PAGES
        end = min(first + count, PAGES)
        iova, size = base + first * PAGE, (end - first) * PAGE
        if kind < 0x60:
            access, place = Access(kind & 3), program.byte() % PAGES if kind & 4 else None
            try:
                copy = None if place is None else os.dup(memory)
                dma.map(iova, size, access, copy, (place or 0) * PAGE)
            except RemoteProtocolError:
                assert not size
            for number in range(first, end):
                there = None if place is None else place + number - first
                model[number] = Page(access, there)
        elif kind < 0xC0:
            dma.unmap(iova, size)
            model[first:end] = [None] * (end - first)
        elif kind < 0xC4:
            dma.unmap_all()
            model = [None] * PAGES
        else:
            _access(dma, iova, size, Access(kind & 3), model[first:end])
    _compare(dma, base, model)
    dma.clear()
    assert not dma.backings()
    os.close(memory)
    return operations


def channel(data: bytes) -> int:
    """Let a guest do what the bytes say.

    Returns the number of ring entries and register accesses.
    """
    return sum(torment(Program(data)))


def _access(dma: DmaTable, iova: int, size: int, wanted: Access, pages: list[Page | None]) -> None:
    bad = [
        number
        for number, page in enumerate(pages)
        if page is None or page.place is None or wanted & ~page.access
    ]
    fault: int | None = None
    try:
        with dma.access(iova, size, wanted) as spans:
            assert sum(span.size for span in spans) == size
    except DmaFault as error:
        fault = error.address
    assert fault == (iova + bad[0] * PAGE if bad else None)


def _compare(dma: DmaTable, base: int, model: list[Page | None]) -> None:
    found: list[Page | None] = [None] * PAGES
    last = base
    for mapping in dma.mappings():
        assert mapping.iova >= last
        last = mapping.end
        for number in range(mapping.size // PAGE):
            place = None if mapping.backing is None else mapping.offset // PAGE + number
            found[(mapping.iova - base) // PAGE + number] = Page(mapping.access, place)
    assert found == model


ALL = {"session": session, "table": table, "channel": channel}
