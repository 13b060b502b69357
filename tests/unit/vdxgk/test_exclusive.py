"""Exclusive access: the rules of the switch, and DMA that the watch sees."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vdxgk.raw_guest import RawGuest, serving
from tests.unit.vdxgk.world import World, contiguous, mdl
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.channel import layout
from vdxgk.memory.ddi import SysmmFatalError
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList, AddressingMode
from vdxgk.memory.pages import PAGE_SIZE
from vdxgk.misbehaviour import Misbehaviour

PHYSICAL, LOGICAL = AddressingMode.PHYSICAL, AddressingMode.LOGICAL


def live_list(world: World, adapter: int) -> AddressDescriptorList:
    opening = world.create(mdl(adapter, 4 * PAGE_SIZE)).opening
    assert opening
    adl = world.backend.allocate_adl(opening.handle, 0, 4 * PAGE_SIZE, 0)
    world.map_all(adl)
    world.backend.commit_adl(opening.handle, adl.handle)
    return adl


class TestRules:
    def test_logical_lists_outlive_the_switch(self) -> None:
        world = World()
        adapter = world.start()
        adl = live_list(world, adapter.handle)
        world.backend.exclusive.begin(adapter.handle, None)
        world.unmap_all(adl)
        world.map_all(adl)
        assert world.backend.exclusive.end(adapter.handle) is adapter
        assert world.report.windows == [True, False]
        assert not world.report.bugchecks

    @pytest.mark.parametrize("page", range(4))
    def test_a_page_that_is_missing_afterwards_is_a_bugcheck(self, page: int) -> None:
        world = World()
        adapter = world.start()
        adl = live_list(world, adapter.handle)
        world.backend.exclusive.begin(adapter.handle, LOGICAL)
        address = adl.mappings[0].logical + page * PAGE_SIZE
        world.table.unmap(address, PAGE_SIZE)
        with pytest.raises(Refused, match="UNSUCCESSFUL"):
            world.backend.exclusive.end(adapter.handle)
        assert world.report.bugchecks == [SysmmFatalError.DOMAIN_REATTACH_FAILED]
        assert world.report.failures[0][1].logical == address
        assert world.report.windows == [True, False]
        adapter.check_not_exclusive()

    def test_lists_that_name_physical_memory_forbid_it(self) -> None:
        world = World(dma_bits=40)
        adapter = world.start(mode=PHYSICAL, highest_visible=(1 << 40) - 1)
        adl = live_list(world, adapter.handle)
        for mode in (None, PHYSICAL, LOGICAL):
            with pytest.raises(Refused, match="RESOURCE_IN_USE"):
                world.backend.exclusive.begin(adapter.handle, mode)
        world.backend.free_adl(adl.opening.handle, adl.handle)
        world.unmap_all(adl)
        world.backend.release_adl(adl.opening.handle, adl.handle)
        world.backend.exclusive.begin(adapter.handle, LOGICAL)
        assert adapter.mode is PHYSICAL
        world.backend.exclusive.end(adapter.handle)
        assert adapter.mode is LOGICAL
        again = world.backend.allocate_adl(adl.opening.handle, 0, PAGE_SIZE, 0)
        assert again.mappings[0].logical != again.mappings[0].physical

    def test_a_logical_list_forbids_physical_mode(self) -> None:
        world = World(dma_bits=40)
        adapter = world.start(highest_visible=(1 << 40) - 1)
        live_list(world, adapter.handle)
        with pytest.raises(Refused, match="RESOURCE_IN_USE"):
            world.backend.exclusive.begin(adapter.handle, PHYSICAL)

    def test_physical_mode_is_refused_where_the_adapter_could_not_have_started(self) -> None:
        world = World()
        adapter = world.start()
        with pytest.raises(Refused, match="NOT_SUPPORTED"):
            world.backend.exclusive.begin(adapter.handle, PHYSICAL)

    def test_within_it_the_adapter_is_asked_for_nothing(self) -> None:
        world = World()
        backend, adapter = world.backend, world.start()
        adl = live_list(world, adapter.handle)
        opening = adl.opening.handle
        backend.exclusive.begin(adapter.handle, None)
        for call in (
            lambda: backend.create(contiguous(adapter.handle, PAGE_SIZE)),
            lambda: backend.allocate_adl(opening, 0, PAGE_SIZE, 0),
            lambda: backend.commit_adl(opening, adl.handle),
            lambda: backend.free_adl(opening, adl.handle),
            lambda: backend.release_adl(opening, adl.handle),
            lambda: backend.exclusive.begin(adapter.handle, None),
            lambda: backend.save_areas.reserve(adapter.handle, 0, PAGE_SIZE),
        ):
            with pytest.raises(Refused, match=NtStatus.INVALID_DEVICE_STATE.symbol):
                call()
        other = world.start()
        world.create(contiguous(other.handle, PAGE_SIZE))
        backend.exclusive.end(adapter.handle)
        backend.free_adl(opening, adl.handle)

    def test_it_ends_once_and_with_the_adapter(self) -> None:
        world = World()
        adapter = world.start()
        with pytest.raises(Refused, match="INVALID_DEVICE_STATE"):
            world.backend.exclusive.end(adapter.handle)
        world.backend.exclusive.begin(adapter.handle, None)
        world.backend.stop_adapter(adapter.handle)
        assert world.report.windows == [True, False]

    def test_a_list_on_its_way_is_waited_for(self) -> None:
        world = World()
        adapter = world.start()
        adl = live_list(world, adapter.handle)
        world.backend.free_adl(adl.opening.handle, adl.handle)
        with pytest.raises(Refused, match="DEVICE_BUSY"):
            world.backend.exclusive.begin(adapter.handle, None)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Adapter, RawGuest, int]]:
    with serving(tmp_path, AdapterOptions(misbehave=True)) as (adapter, path):
        guest = RawGuest(path)
        yield adapter, guest, guest.start()
        guest.close()


def request(guest: RawGuest, op: int, handle: int) -> layout.Completion:
    return guest.request(op, bytes(layout.ExclusiveArgs(handle)), room=0)


def begin(guest: RawGuest, handle: int) -> None:
    assert request(guest, layout.OP_BEGIN_EXCLUSIVE, handle).status == NtStatus.SUCCESS


def end(guest: RawGuest, handle: int) -> layout.EndExclusiveResult:
    completion = request(guest, layout.OP_END_EXCLUSIVE, handle)
    assert completion.status == NtStatus.SUCCESS
    return layout.EndExclusiveResult.from_buffer_copy(completion.result)


def live_address(guest: RawGuest, handle: int) -> int:
    made, _ = guest.create(bytes(contiguous(handle, 2 * PAGE_SIZE)))
    _, mappings = guest.live_list(made.adapter_object, 2 * PAGE_SIZE)
    return mappings[0][0]


class TestWatch:
    def test_a_quiet_device(self, served: tuple[Adapter, RawGuest, int]) -> None:
        adapter, guest, handle = served
        address = live_address(guest, handle)
        begin(guest, handle)
        assert end(guest, handle).violations == 0
        command = guest.engine(op=layout.ENGINE_CRC32, source=address, size=64)
        assert command.status == NtStatus.SUCCESS
        assert adapter.exclusive_violations == 0

    @pytest.mark.parametrize("flags", [0, layout.ENGINE_MESSAGES])
    @pytest.mark.parametrize("write", [False, True])
    def test_a_command_within_it(
        self, served: tuple[Adapter, RawGuest, int], flags: int, write: bool
    ) -> None:
        adapter, guest, handle = served
        address = live_address(guest, handle)
        begin(guest, handle)
        if write:
            guest.engine(op=layout.ENGINE_FILL, destination=address, size=64, flags=flags)
        else:
            guest.engine(op=layout.ENGINE_CRC32, source=address, size=64, flags=flags)
        event = guest.event()
        assert event.type == layout.EVENT_EXCLUSIVE_VIOLATION
        assert list(event.parameters[:2]) == [address, 64]
        assert bool(event.code & layout.FAULT_WRITE) == write
        assert end(guest, handle).violations == 1
        assert adapter.exclusive_violations == 1

    def test_a_device_that_reads_on_its_own(self, served: tuple[Adapter, RawGuest, int]) -> None:
        adapter, guest, handle = served
        address = live_address(guest, handle)
        adapter.saboteur.arm(Misbehaviour.EXCLUSIVE_DMA)
        begin(guest, handle)
        assert guest.event().parameters[0] == address
        assert end(guest, handle).violations == 1

    def test_a_reset_ends_it(self, served: tuple[Adapter, RawGuest, int]) -> None:
        adapter, guest, handle = served
        begin(guest, handle)
        handle = guest.start()
        address = live_address(guest, handle)
        guest.engine(op=layout.ENGINE_CRC32, source=address, size=64)
        assert adapter.exclusive_violations == 0

    def test_bad_requests(self, served: tuple[Adapter, RawGuest, int]) -> None:
        _, guest, handle = served
        bad_mode = struct.pack("<2Q", handle, 7)
        refused = guest.request(layout.OP_BEGIN_EXCLUSIVE, bad_mode, room=0)
        assert refused.status == NtStatus.INVALID_PARAMETER
        assert request(guest, layout.OP_BEGIN_EXCLUSIVE, 1).status == NtStatus.INVALID_HANDLE
        state = NtStatus.INVALID_DEVICE_STATE
        assert request(guest, layout.OP_END_EXCLUSIVE, handle).status == state
