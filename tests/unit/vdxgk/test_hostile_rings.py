"""A guest that rings, writes and never reads as no driver would: the device lives on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from structlog import DropEvent
from structlog.typing import EventDict

from tests.unit.vdxgk.raw_guest import RawGuest, serving
from tests.unit.vdxgk.world import mdl
from tests.waiting import readable, wait_for
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.channel import layout
from vdxgk.memory.pages import PAGE_SIZE

DOORBELLS = 4000
REFUSED = 1000
OVER = layout.STATUS_READY | layout.STATUS_BROKEN
REQUEST = layout.Request(op=layout.OP_RECLAIM)

SCRIBBLER = '''
import mmap, random, select, sys
from vdxgk.channel import layout
from vdxgk.function import CHANNEL_BAR_SIZE, SHARED_OFFSET
memory = mmap.mmap(int(sys.argv[1]), CHANNEL_BAR_SIZE)
view = memoryview(memory)[SHARED_OFFSET:]
words = view.cast("I")
chance = random.Random(1)
args = layout.Request.args.offset


def request():
    """One that is looked into: its list lies within the bulk data."""
    fixed = bytes(layout.Request(op=chance.randrange(24), data_size=chance.choice([0, 64])))
    few = chance.choice([bytes(96), bytes(8), b""])
    return (fixed[:args] + few + chance.randbytes(128))[:128]


def command():
    return bytes(layout.EngineCommand(op=chance.randrange(5), size=chance.randrange(1 << 21)))


rings = [(layout.SHARED_REQUESTS, request), (layout.SHARED_COMMANDS, command)]
parent = select.poll()
parent.register(0, select.POLLHUP)
print("begun", flush=True)
while not parent.poll(0):
    for _ in range(500):
        place, make = chance.choice(rings)
        entry = make()
        slot = place + chance.randrange(layout.RING_ENTRIES) * len(entry)
        view[slot:slot + len(entry)] = entry
        ring = chance.randrange(5) * 32
        words[ring + chance.randrange(32)] = chance.randrange(300)
'''


@contextmanager
def attached(directory: Path) -> Iterator[tuple[Adapter, RawGuest]]:
    with serving(directory, AdapterOptions()) as (adapter, path):
        guest = RawGuest(path)
        try:
            yield adapter, guest
        finally:
            guest.close()


def assert_serves(guest: RawGuest) -> None:
    """A new driver starts, gets memory and moves data."""
    adapter = guest.start()
    made, _ = guest.create(bytes(mdl(adapter, 4 * PAGE_SIZE)))
    _, mappings = guest.live_list(made.adapter_object, 4 * PAGE_SIZE)
    command = {"op": layout.ENGINE_FILL, "destination": mappings[0][0], "size": 4 * PAGE_SIZE}
    assert guest.engine(**command).status == 0


def test_interrupts_never_acknowledged(tmp_path: Path) -> None:
    """Counters of interrupts at their end: one more would block whoever adds it."""
    with attached(tmp_path) as (_, guest):
        guest.start()
        for eventfd in guest.eventfds:
            if readable(eventfd, 0):
                os.eventfd_read(eventfd)
            os.eventfd_write(eventfd, (1 << 64) - 2)
        header = guest.rings[layout.RING_COMPLETIONS]
        for count in range(1, 10):
            header.notify = 1
            guest.produce(
                layout.RING_REQUESTS,
                layout.SHARED_REQUESTS,
                bytes(REQUEST),
                layout.REG_CHANNEL_DOORBELL,
            )
            wait_for(lambda: header.producer - header.consumer >= count, "an answer")  # noqa: B023
        for eventfd in guest.eventfds:
            os.eventfd_read(eventfd)
        assert_serves(guest)


def test_completions_never_read(tmp_path: Path) -> None:
    """Full is full: the rest waits, registers answer, and nothing piles up."""
    with attached(tmp_path) as (_, guest):
        guest.start()
        requests, answers = guest.rings[layout.RING_REQUESTS], guest.rings[layout.RING_COMPLETIONS]
        unread = answers.consumer
        for _ in range(3):
            requests.producer = requests.consumer + layout.RING_ENTRIES
            guest.write(layout.REG_CHANNEL_DOORBELL, 1)
            wait_for(lambda: answers.producer == unread + layout.RING_ENTRIES, "a full ring")
            assert guest.read(layout.REG_STATUS) == layout.STATUS_READY
            assert answers.producer == unread + layout.RING_ENTRIES
        assert_serves(guest)


def test_doorbell_storms(tmp_path: Path) -> None:
    with attached(tmp_path) as (_, guest):
        guest.start()
        threads = threading.active_count()
        for number in range(DOORBELLS):
            guest.write(layout.REG_CHANNEL_DOORBELL, number)
            guest.write(layout.REG_ENGINE_DOORBELL, number)
            if number % 100 == 0:
                assert guest.request(layout.OP_RECLAIM).status == 0
                assert guest.engine(op=layout.ENGINE_NOP, fence=number).fence == number
        assert threading.active_count() <= threads  # those of tests before may end
        assert_serves(guest)


@pytest.fixture
def own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_log")
def test_rings_rewritten_while_they_are_read(tmp_path: Path) -> None:
    """By another process, so that nothing but the processor decides who is first."""
    seen: Counter[str] = Counter()

    def count(_logger: object, _method: str, line: EventDict) -> EventDict:
        event = line["event"]
        seen["broken" if event.startswith("the guest broke") else event] += 1
        raise DropEvent

    structlog.configure([count])
    with attached(tmp_path) as (adapter, guest):
        fd = adapter._channel_memory.fd
        scribbler = subprocess.Popen(
            [sys.executable, "-c", SCRIBBLER, str(fd)],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert scribbler.stdin
        assert scribbler.stdout
        try:
            assert scribbler.stdout.readline()
            while seen["refused"] < REFUSED or not seen["broken"]:
                guest.write(layout.REG_CONTROL, layout.CONTROL_RESET)
                wait_for(lambda: bool(guest.read(layout.REG_STATUS) & OVER), "an end of the reset")
                for doorbell in (layout.REG_CHANNEL_DOORBELL, layout.REG_ENGINE_DOORBELL):
                    guest.write(doorbell, 1)
            assert scribbler.poll() is None
        finally:
            scribbler.stdin.close()
            assert scribbler.wait(60) == 0
            scribbler.stdout.close()
        assert_serves(guest)
    assert not seen["internal error"], seen


@pytest.mark.parametrize("what", ["entry", "index"])
def test_an_entry_is_copied_once(tmp_path: Path, what: str) -> None:
    """What was taken stays as it was, whatever is written over it."""
    with attached(tmp_path) as (adapter, guest):
        guest.start()
        ring = adapter._requests
        header = guest.rings[layout.RING_REQUESTS]
        slot = layout.SHARED_REQUESTS + ring._index % layout.RING_ENTRIES * 128
        guest.shared[slot : slot + 128] = bytes(REQUEST)
        header.producer = ring._index + 1
        taken = ring.take()
        if what == "entry":
            guest.shared[slot : slot + 128] = b"\xff" * 128
        else:
            header.producer = 0
        assert taken == bytes(REQUEST)
