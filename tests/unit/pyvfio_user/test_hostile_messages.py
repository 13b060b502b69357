"""A session fed with messages that are almost right: every one gets its answer."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    DmaPolicy,
    MsixCapability,
    SharedMemory,
    VendorCapability,
)
from pyvfio_user.session import Session
from pyvfio_user.version import Capabilities
from pyvfio_user.wire import RULES

MESSAGES = 8_000
# Values at which things break.
EDGES = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 20, 24, 32, 0xFF, 0x100, 0xFFF, 0x1000, 0x1001, 0xFFFF]
EDGES += [0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
LONG_EDGES = [1 << 32, 1 << 63, (1 << 64) - 0x1000, (1 << 64) - 1]


class Silent:
    """A logger that counts what must not happen."""

    def __init__(self) -> None:
        self.errors: list[object] = []

    def info(self, event: str, **values: object) -> None:
        pass

    warning = info

    def error(self, event: str, **values: object) -> None:
        self.errors.append((event, values))


class Guest:
    """Makes up messages.  The seed is all there is to a run."""

    def __init__(self, seed: int, memory: int) -> None:
        self.chance = random.Random(seed)
        self.memory = memory

    def number(self, code: str) -> int:
        if code == "Q" and self.chance.random() < 0.2:
            return self.chance.choice(LONG_EDGES)
        value = self.chance.choice(EDGES)
        if code == "Q" and self.chance.random() < 0.5:
            value <<= 12
        return value & (0xFFFF if code == "H" else 0xFFFFFFFF if code == "I" else (1 << 64) - 1)

    def payload(self, command: int) -> bytes:
        rule = RULES.get(command)
        if rule is None or self.chance.random() < 0.05:
            return self.chance.randbytes(self.chance.choice(EDGES[:14]))
        codes = rule.fields.format[1:]
        values = [self.number(code) for code in codes]
        if values and self.chance.random() < 0.8 and codes[0] == "I":
            values[0] = rule.fields.size  # argsz
        tail = self.chance.randbytes(self.chance.choice([0, 0, 0, 1, 4, 8, 24, 48]))
        if command == 10 and self.chance.random() < 0.8:
            values[2] = len(tail)
        return struct.pack(f"={codes}", *values) + tail

    def message(self) -> tuple[bytes, list[int], bool]:
        """Return bytes, descriptors, and whether an answer is due."""
        command = self.chance.choice([*RULES, 0, 14, 19, 0xFFFF])
        payload = self.payload(command)
        flags = self.chance.choice([0] * 8 + [0x10, 1, 2, 0x21, 0xFFFFFFE0])
        header = struct.pack(
            "=HHIII", self.number("H"), command, 16 + len(payload), flags, self.number("I")
        )
        descriptors = []
        if self.chance.random() < 0.3:
            for _ in range(self.chance.choice([1, 1, 1, 2, 16])):
                is_memory = self.chance.random() < 0.5
                descriptors.append(os.dup(self.memory) if is_memory else os.eventfd(0))
        return header + payload, descriptors, flags & 0x1F != 0x10 and flags & 0xF != 1


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("guest")
    os.ftruncate(descriptor, 1 << 20)
    yield descriptor
    os.close(descriptor)


def make_device(shared: SharedMemory, policy: DmaPolicy) -> Device:
    config = ConfigSpace(1, 2, 3, interrupt_pin=1)
    config.add_capability(VendorCapability(b"123"))
    config.add_capability(MsixCapability(4, 4, 0, 4, 0x800))
    bars = {
        0: Bar(0x4000, memory=shared, mmap_areas=[(0x1000, 0x1000)], is_64bit=True),
        4: Bar(0x1000),
    }
    return Device(config, bars, dma_policy=policy)


@pytest.mark.parametrize("policy", ["tolerant", "strict"])
@pytest.mark.parametrize("seed", range(3))
def test_every_message_is_answered_and_nothing_leaks(
    policy: DmaPolicy, seed: int, memory: int
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    guest = Guest(seed, memory)
    log = Silent()
    with SharedMemory(0x4000, "bar") as shared:
        device = make_device(shared, policy)
        session = Session(device, log, lambda _: None, offer=Capabilities(16, 131072, True))
        proposal = b'\0\0\0\0{"capabilities":{"max_data_xfer_size":65536,"write_multiple":true}}\0'
        greeting = struct.pack("=HHIII", 0, 1, 16 + len(proposal), 0, 0) + proposal
        session.connection.get_buffer()[: len(greeting)] = greeting
        assert len(session.receive(len(greeting))) == 1
        answers = {True: 0, False: 0}
        for _ in range(MESSAGES):
            data, descriptors, is_due = guest.message()
            session.connection.get_buffer()[: len(data)] = data
            outgoing = session.receive(len(data), descriptors)
            assert len(outgoing) == is_due, data
            if is_due:
                reply, _ = outgoing[0]
                reply_id, command, size, flags, error = struct.unpack_from("=HHIII", reply)
                assert (reply_id, command) == struct.unpack_from("=HH", data)
                assert size == len(reply)
                assert flags in (1, 0x21)
                assert (flags == 0x21) == (error != 0)
                answers[error == 0] += 1
            assert not session.closing
        session.lost()
    assert not log.errors, "a handler failed by itself"
    assert min(answers.values()) > MESSAGES // 20, "the mixture tests both sides"
    assert len(os.listdir("/proc/self/fd")) == before
