"""Rings in shared memory: what a guest may write there, and what comes of it."""

from __future__ import annotations

import ctypes

import pytest

from vdxgk.channel import layout
from vdxgk.channel.ring import ConsumerRing, ProducerRing, RingBrokenError

HEADER = ctypes.sizeof(layout.Ring)


class Shared:
    """Shared memory with one ring of 8-byte entries, and the guest's end of it."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(0x1000 + 8 * layout.RING_ENTRIES))
        self.header = layout.Ring.from_buffer(self.memory, 0)

    def entry(self, index: int) -> memoryview:
        start = 0x1000 + index % layout.RING_ENTRIES * 8
        return self.memory[start : start + 8]


@pytest.fixture
def shared() -> Shared:
    return Shared()


def consumer(shared: Shared) -> ConsumerRing:
    ring = ConsumerRing(shared.memory, 0, 0x1000, 8)
    ring.reset()
    return ring


def producer(shared: Shared) -> ProducerRing:
    ring = ProducerRing(shared.memory, 0, 0x1000, 8)
    ring.reset()
    return ring


def test_entries_come_in_order_and_the_index_follows(shared: Shared) -> None:
    ring = consumer(shared)
    for number in range(3):
        shared.entry(number)[:] = number.to_bytes(8, "little")
    shared.header.producer = 3
    taken = []
    while (entry := ring.take()) is not None:
        taken.append(int.from_bytes(entry, "little"))
    assert taken == [0, 1, 2]
    assert shared.header.consumer == 3


def test_indices_wrap_at_32_bits(shared: Shared) -> None:
    ring = consumer(shared)
    ring._index = 0xFFFFFFFF
    shared.header.producer = 1
    assert ring.take() is not None
    assert ring.take() is not None
    assert ring.take() is None
    assert shared.header.consumer == 1


@pytest.mark.parametrize("producer_index", [257, 0x80000000, 0xFFFFFFFF])
def test_an_impossible_producer_index_breaks_the_ring(shared: Shared, producer_index: int) -> None:
    ring = consumer(shared)
    shared.header.producer = producer_index
    with pytest.raises(RingBrokenError):
        ring.take()


def test_what_the_guest_writes_as_consumer_index_is_ignored(shared: Shared) -> None:
    ring = consumer(shared)
    shared.header.producer = 1
    shared.header.consumer = 0xDEAD
    assert ring.take() is not None
    assert shared.header.consumer == 1


def test_sleep_sees_an_entry_that_came_meanwhile(shared: Shared) -> None:
    ring = consumer(shared)
    shared.header.producer = 1
    assert not ring.sleep()
    assert shared.header.notify == 0
    ring.take()
    assert ring.sleep()
    assert shared.header.notify == 1


def test_a_full_producer_ring_refuses(shared: Shared) -> None:
    ring = producer(shared)
    for _ in range(layout.RING_ENTRIES):
        assert ring.put(bytes(8))
    assert not ring.put(bytes(8))
    shared.header.consumer = 1
    assert ring.put(b"\x01" * 8)
    assert bytes(shared.entry(0)) == b"\x01" * 8


def test_an_impossible_consumer_index_breaks_the_ring(shared: Shared) -> None:
    ring = producer(shared)
    shared.header.consumer = 1
    with pytest.raises(RingBrokenError):
        ring.put(bytes(8))


def test_notification_is_the_guests_choice(shared: Shared) -> None:
    ring = producer(shared)
    assert not ring.notify
    shared.header.notify = 1
    assert ring.notify
