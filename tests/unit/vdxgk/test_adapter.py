"""The whole adapter, over a real socket, driven by hand: rings, threads, resets, faults."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.unit.vdxgk.raw_guest import LIMIT, RawGuest, serving
from tests.unit.vdxgk.world import contiguous, mdl
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.channel import layout
from vdxgk.describe import MAX_LISTS, describe
from vdxgk.engine import word_sequence
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import PAGE_SIZE
from vdxgk.misbehaviour import Misbehaviour

SIZE = 64 * PAGE_SIZE


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Adapter, str]]:
    with serving(tmp_path, AdapterOptions(misbehave=True)) as pair:
        yield pair


@pytest.fixture
def adapter(served: tuple[Adapter, str]) -> Adapter:
    return served[0]


@pytest.fixture
def guest(served: tuple[Adapter, str]) -> Iterator[RawGuest]:
    guest = RawGuest(served[1])
    yield guest
    guest.close()


def test_scattered_memory_is_read_and_written_through_logical_addresses(guest: RawGuest) -> None:
    adapter = guest.start()
    result, runs = guest.create(bytes(mdl(adapter, SIZE)))
    assert len(runs) > 32
    _, mappings = guest.live_list(result.adapter_object, SIZE)
    base = mappings[0][0]
    position = 0
    for physical, size in runs:
        part = word_sequence(3, 7, position, size)
        guest.ram.view[physical : physical + size] = part
        position += size
    read = guest.engine(op=layout.ENGINE_CRC32, fence=1, source=base, size=SIZE)
    assert (read.status, read.done) == (0, SIZE)
    assert read.result == zlib.crc32(word_sequence(3, 7, 0, SIZE))
    written = guest.engine(
        op=layout.ENGINE_FILL, fence=2, destination=base, size=SIZE, value=11, step=13
    )
    assert written.status == 0
    assert guest.bytes_of(runs) == word_sequence(11, 13, 0, SIZE)


def test_copy_between_two_lists(guest: RawGuest) -> None:
    adapter = guest.start()
    first, _ = guest.create(bytes(mdl(adapter, SIZE)))
    second, runs = guest.create(bytes(contiguous(adapter, SIZE)))
    _, source = guest.live_list(first.adapter_object, SIZE)
    _, destination = guest.live_list(second.adapter_object, SIZE)
    guest.engine(op=layout.ENGINE_FILL, destination=source[0][0], size=SIZE, value=5, step=9)
    size = SIZE - 12345
    copied = guest.engine(
        op=layout.ENGINE_COPY, source=source[0][0], destination=destination[0][0], size=size
    )
    assert copied.done == size
    assert guest.bytes_of(runs)[:size] == word_sequence(5, 9, 0, size)


def test_a_freed_list_faults_and_memory_is_unchanged(guest: RawGuest, adapter: Adapter) -> None:
    handle = guest.start()
    result, runs = guest.create(bytes(contiguous(handle, SIZE)))
    adl, mappings = guest.live_list(result.adapter_object, SIZE)
    guest.engine(op=layout.ENGINE_FILL, destination=mappings[0][0], size=SIZE, value=1, step=1)
    before = guest.bytes_of(runs)
    assert guest.free(result.adapter_object, adl, mappings) == 0
    stale = guest.engine(op=layout.ENGINE_FILL, destination=mappings[0][0], size=SIZE)
    info = layout.FAULT_VALID | layout.FAULT_WRITE | layout.FAULT_UNMAPPED
    assert (stale.status, stale.fault, stale.fault_address, stale.done) == (
        NtStatus.UNSUCCESSFUL,
        info,
        mappings[0][0],
        0,
    )
    event = guest.event()
    assert (event.type, event.code, event.parameters[0]) == (
        layout.EVENT_FAULT,
        info,
        mappings[0][0],
    )
    assert guest.read(layout.REG_FAULT_INFO) == info
    assert guest.bytes_of(runs) == before
    assert [fault.address for fault in adapter.faults.history()] == [mappings[0][0]]


def test_an_overrun_stops_at_the_last_mapped_byte(guest: RawGuest) -> None:
    result, runs = guest.create(bytes(contiguous(guest.start(), SIZE)))
    _, mappings = guest.live_list(result.adapter_object, SIZE)
    over = guest.engine(
        op=layout.ENGINE_FILL, destination=mappings[0][0] + 100, size=SIZE, value=1, step=1
    )
    assert over.fault_address == mappings[0][0] + SIZE
    assert over.done == SIZE - 100
    assert guest.bytes_of(runs)[100:] == word_sequence(1, 1, 0, SIZE - 100)


def test_bus_mastering_off_and_addresses_too_wide_are_faults(guest: RawGuest) -> None:
    guest.start()
    wide = guest.engine(op=layout.ENGINE_CRC32, source=(1 << 32) - 8, size=16)
    assert wide.fault & layout.FAULT_REASON_MASK == layout.FAULT_ADDRESS_WIDTH
    wrapping = guest.engine(op=layout.ENGINE_CRC32, source=(1 << 64) - 8, size=16)
    assert wrapping.fault & layout.FAULT_REASON_MASK == layout.FAULT_ADDRESS_WIDTH
    guest.client.region_write(7, 4, struct.pack("<H", 2))
    off = guest.engine(op=layout.ENGINE_CRC32, source=0x1000, size=16)
    assert off.fault & layout.FAULT_REASON_MASK == layout.FAULT_BUS_MASTER_OFF


@pytest.mark.parametrize(
    "command",
    [
        {"op": 99, "size": 1},
        {"op": layout.ENGINE_FILL, "flags": 2, "size": 1},
        {"op": layout.ENGINE_FILL, "size": layout.ENGINE_MAX_SIZE + 1},
        {"op": layout.ENGINE_FILL, "size": (1 << 64) - 1},
    ],
)
def test_malformed_commands_get_a_status(guest: RawGuest, command: dict[str, int]) -> None:
    guest.start()
    assert guest.engine(fence=5, **command).status != 0
    assert guest.engine(op=layout.ENGINE_NOP, fence=6).status == 0


def test_a_refused_message_is_a_fault(guest: RawGuest) -> None:
    guest.start()
    # This client refuses every message, as an IOMMU without a mapping does.
    refused = guest.engine(
        op=layout.ENGINE_CRC32, flags=layout.ENGINE_MESSAGES, source=0x5000, size=16
    )
    assert refused.fault == layout.FAULT_VALID | layout.FAULT_REFUSED
    assert refused.fault_address == 0x5000
    assert guest.engine(op=layout.ENGINE_NOP).status == 0


def test_private_memory_is_refused_at_start(guest: RawGuest) -> None:
    with pytest.raises(AssertionError, match="0xc00000bb"):
        guest.start(probe=98)


@pytest.mark.parametrize("damage", ["skip", "wrong", "read-only"])
def test_a_wrong_mapping_is_not_committed(guest: RawGuest, adapter: Adapter, damage: str) -> None:
    result, _ = guest.create(bytes(mdl(guest.start(), SIZE)))
    adl, mappings = guest.allocate_adl(result.adapter_object, SIZE)
    guest.map(mappings)
    logical, physical, _ = mappings[5]
    guest.client.dma_unmap(logical, PAGE_SIZE)
    if damage == "wrong":
        guest.client.dma_map(logical, PAGE_SIZE, descriptor=guest.ram.fd, offset=0x5000)
    elif damage == "read-only":
        guest.client.dma_map(logical, PAGE_SIZE, flags=1, descriptor=guest.ram.fd, offset=physical)
    assert guest.commit(result.adapter_object, adl) == NtStatus.UNSUCCESSFUL
    event = guest.event()
    assert event.type == layout.EVENT_REMAP_FAILURE
    assert event.parameters[0] == adl
    assert event.parameters[1] == logical
    assert event.parameters[2] == physical
    assert event.parameters[3] == {"skip": (1 << 64) - 1, "wrong": 0x5000}.get(damage, physical)


@pytest.mark.parametrize("damage", ["none", "wrong", "skip", "read-only"])
def test_of_a_hot_plugged_list_presence_and_access_are_checked(tmp_path: Path, damage: str) -> None:
    with capture_logs() as log, serving(tmp_path, AdapterOptions()) as (_, path):
        guest = RawGuest(path, hot_plugged=True)
        result, _ = guest.create(bytes(mdl(guest.start(), SIZE)))
        adl, mappings = guest.allocate_adl(result.adapter_object, SIZE)
        guest.map(mappings)
        logical, physical, _ = mappings[5]
        if damage != "none":
            guest.client.dma_unmap(logical, PAGE_SIZE)
        if damage in ("wrong", "read-only"):
            flags, offset = (1, physical) if damage == "read-only" else (3, 0x5000)
            guest.client.dma_map(
                logical, PAGE_SIZE, flags=flags, descriptor=guest.ram.fd, offset=offset
            )
        status = guest.commit(result.adapter_object, adl)
        # The place cannot be seen, so a wrong one is not noticed: the log has said so.
        assert (status == 0) == (damage in ("none", "wrong"))
        if status:
            event = guest.event()
            assert (event.type, event.parameters[1]) == (layout.EVENT_REMAP_FAILURE, logical)
        guest.close()
    warnings = [line["event"] for line in log if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "hot plug" in warnings[0]


def test_with_msi_every_interrupt_comes_by_msi(tmp_path: Path) -> None:
    with serving(tmp_path, AdapterOptions(msi=True)) as (adapter, path):
        found = [type(capability).__name__ for _, capability in adapter.device.config.capabilities]
        assert "MsiCapability" in found
        assert "MsixCapability" not in found
        guest = RawGuest(path)
        assert [guest.client.irq_info(kind)[1] for kind in (1, 2)] == [layout.VECTORS, 0]
        result, _ = guest.create(bytes(mdl(guest.start(), SIZE)))
        _, mappings = guest.live_list(result.adapter_object, SIZE)
        assert guest.engine(op=layout.ENGINE_CRC32, source=mappings[0][0], size=SIZE).status == 0
        assert guest.engine(op=layout.ENGINE_CRC32, source=0, size=8).status != 0
        assert guest.event().type == layout.EVENT_FAULT
        guest.close()


def test_stale_handles_get_a_status(guest: RawGuest) -> None:
    adapter = guest.start()
    result, _ = guest.create(bytes(contiguous(adapter, PAGE_SIZE)))
    args = struct.pack("<2Q", result.object, result.adapter_object)
    assert guest.request(layout.OP_DESTROY_OBJECT, args).status == 0
    assert guest.request(layout.OP_DESTROY_OBJECT, args).status == NtStatus.INVALID_HANDLE


def test_an_answered_stale_handle_is_found_at_its_first_use(
    guest: RawGuest, adapter: Adapter
) -> None:
    handle = guest.start()
    first, _ = guest.create(bytes(contiguous(handle, PAGE_SIZE)))
    args = struct.pack("<2Q", first.object, first.adapter_object)
    assert guest.request(layout.OP_DESTROY_OBJECT, args).status == 0
    adapter.saboteur.arm(Misbehaviour.STALE_HANDLE)
    second, _ = guest.create(bytes(contiguous(handle, PAGE_SIZE)))
    assert second.object == first.object
    wanted = struct.pack("<QQQQQ", second.object, 0, 0, PAGE_SIZE, 0)
    assert guest.request(layout.OP_MAP_OBJECT, wanted).status == NtStatus.INVALID_HANDLE


def test_a_broken_ring_stops_until_reset(guest: RawGuest) -> None:
    guest.start()
    guest.rings[layout.RING_REQUESTS].producer += 1000
    guest.write(layout.REG_CHANNEL_DOORBELL, 1)
    for _ in range(100_000):
        if guest.read(layout.REG_STATUS) == layout.STATUS_BROKEN:
            break
    else:
        pytest.fail("the channel does not notice")
    guest.client.dma_map(0, 64 << 20, descriptor=guest.ram.fd)
    assert guest.start()


def test_a_batch_costs_one_doorbell(guest: RawGuest) -> None:
    guest.start()
    header = guest.rings[layout.RING_REQUESTS]
    for number in range(layout.RING_ENTRIES):
        slot = layout.SHARED_REQUESTS + (header.producer + number) % layout.RING_ENTRIES * 128
        guest.shared[slot : slot + 128] = bytes(layout.Request(op=999, cookie=number))
    header.producer += layout.RING_ENTRIES
    guest.write(layout.REG_CHANNEL_DOORBELL, 1)
    for number in range(layout.RING_ENTRIES):
        entry = guest.consume(
            layout.RING_COMPLETIONS, layout.SHARED_COMPLETIONS, 128, layout.VECTOR_CHANNEL
        )
        assert layout.Completion.from_buffer_copy(entry).cookie == number


def test_the_next_client_finds_nothing_of_the_last(served: tuple[Adapter, str]) -> None:
    adapter, path = served
    for _ in range(3):
        guest = RawGuest(path)
        guest.create(bytes(contiguous(guest.start(), PAGE_SIZE)))
        assert len(adapter.backend.objects) == 1
        guest.close()
    guest = RawGuest(path)
    guest.start()
    state = describe(adapter)
    assert state["objects"] == []
    assert state["donated_bytes"] == 0
    guest.close()


def test_device_reset_forgets(guest: RawGuest, adapter: Adapter) -> None:
    guest.create(bytes(contiguous(guest.start(), PAGE_SIZE)))
    guest.client.reset()
    assert guest.read(layout.REG_STATUS) == 0
    guest.client.region_write(7, 4, struct.pack("<H", 6))
    guest.start()
    assert describe(adapter)["objects"] == []


def test_a_reset_is_over_when_the_dma_under_way_is(
    guest: RawGuest, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.start()
    begun, finish = threading.Event(), threading.Event()

    def slow_step(command: object, cancelled: object) -> layout.EngineCompletion:
        begun.set()
        assert finish.wait(LIMIT)
        return layout.EngineCompletion()

    monkeypatch.setattr(adapter.engine, "execute", slow_step)
    guest.produce(
        layout.RING_COMMANDS,
        layout.SHARED_COMMANDS,
        bytes(layout.EngineCommand()),
        layout.REG_ENGINE_DOORBELL,
    )
    assert begun.wait(LIMIT)
    guest.write(layout.REG_CONTROL, layout.CONTROL_RESET)
    try:
        assert all(guest.read(layout.REG_STATUS) == 0 for _ in range(500))
    finally:
        finish.set()
    guest.reset()


def test_a_description_is_bounded_and_tells_the_totals(guest: RawGuest, adapter: Adapter) -> None:
    start = guest.start()
    made = [guest.create(bytes(contiguous(start, PAGE_SIZE)))[0] for _ in range(5)]
    for _ in range(MAX_LISTS + 3):
        adl, _ = guest.live_list(made[-1].adapter_object, PAGE_SIZE)
    state = describe(adapter, objects=3, runs=0)
    assert (state["object_count"], state["list_count"]) == (5, MAX_LISTS + 3)
    assert [shown["handle"] for shown in state["objects"]] == [one.object for one in made[-3:]]
    assert [(shown["run_count"], shown["runs"]) for shown in state["objects"]] == [(1, [])] * 3
    newest = state["objects"][-1]
    assert (newest["list_count"], len(newest["lists"])) == (MAX_LISTS + 3, MAX_LISTS)
    assert newest["lists"][-1]["handle"] == adl


def test_the_engine_counts_what_it_moved(guest: RawGuest, adapter: Adapter) -> None:
    result, _ = guest.create(bytes(contiguous(guest.start(), SIZE)))
    _, mappings = guest.live_list(result.adapter_object, SIZE)
    base = mappings[0][0]
    guest.engine(op=layout.ENGINE_FILL, destination=base, size=SIZE, value=1, step=1)
    guest.engine(op=layout.ENGINE_CRC32, source=base, size=100)
    guest.engine(op=layout.ENGINE_COPY, source=base, destination=base + PAGE_SIZE, size=8)
    over = guest.engine(op=layout.ENGINE_FILL, destination=base + SIZE - 16, size=SIZE)
    assert over.done == 16
    assert describe(adapter)["engine"] == {
        "commands": 4,
        "bytes_read": 108,
        "bytes_written": SIZE + 8 + 16,
    }
