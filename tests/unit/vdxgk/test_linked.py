"""Linked adapters: two functions, one logical adapter, and lists that both must see."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyvfio_user import Server
from tests.unit.vdxgk.raw_guest import LIMIT, RawGuest
from tests.unit.vdxgk.world import HIGH_BASE, LOW_RAM, Table, World, contiguous, mdl
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.channel import layout
from vdxgk.cli import main
from vdxgk.function import Link
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList
from vdxgk.memory.pages import PAGE_SIZE


class LinkedWorld(World):
    """Two functions behind one domain."""

    def __init__(self, dma_bits: int = 32) -> None:
        super().__init__()
        self.second = Table()
        self.backend.link(self.second, dma_bits)

    def map_second(self, adl: AddressDescriptorList) -> None:
        for mapping in adl.mappings:
            place = mapping.physical - HIGH_BASE + LOW_RAM
            self.second.map(mapping.logical, mapping.size, self.file, place)


def allocated(world: World) -> tuple[int, AddressDescriptorList]:
    target = world.create(contiguous(world.start().handle, 4 * PAGE_SIZE))
    assert target.opening
    adl = world.backend.allocate_adl(target.opening.handle, 0, 4 * PAGE_SIZE, 0)
    world.map_all(adl)
    return target.opening.handle, adl


def test_a_list_is_live_when_both_functions_see_it() -> None:
    world = LinkedWorld()
    opening, adl = allocated(world)
    world.map_second(adl)
    world.backend.commit_adl(opening, adl.handle)
    assert not world.report.failures


@pytest.mark.parametrize("page", [0, 3])
def test_a_page_that_the_second_function_lacks(page: int) -> None:
    world = LinkedWorld()
    opening, adl = allocated(world)
    world.map_second(adl)
    address = adl.mappings[0].logical + page * PAGE_SIZE
    world.second.unmap(address, PAGE_SIZE)
    with pytest.raises(Refused, match="UNSUCCESSFUL"):
        world.backend.commit_adl(opening, adl.handle)
    ((_, failure),) = world.report.failures
    assert (failure.function, failure.logical) == (1, address)


def test_a_page_that_the_second_function_keeps() -> None:
    world = LinkedWorld()
    opening, adl = allocated(world)
    world.map_second(adl)
    world.backend.commit_adl(opening, adl.handle)
    world.backend.free_adl(opening, adl.handle)
    world.unmap_all(adl)
    with pytest.raises(Refused, match="UNSUCCESSFUL"):
        world.backend.release_adl(opening, adl.handle)
    assert world.report.failures[0][1].function == 1
    world.second.pages.clear()
    world.backend.release_adl(opening, adl.handle)


def test_the_narrower_function_bounds_logical_addresses() -> None:
    world = LinkedWorld(dma_bits=28)
    space = world.start().space
    assert space
    assert space.end == (1 << 28) - 1


def test_each_physical_adapter_has_a_save_area() -> None:
    world = LinkedWorld()
    adapter = world.start().handle
    areas = world.backend.save_areas
    for index in range(2):
        areas.reserve(adapter, index, PAGE_SIZE)
    with pytest.raises(Refused, match="INVALID_PARAMETER"):
        areas.reserve(adapter, 2, PAGE_SIZE)
    first = world.donating(lambda: areas.pin(adapter, 0, PAGE_SIZE, 0))
    second = world.donating(lambda: areas.pin(adapter, 1, PAGE_SIZE, 0))
    assert first.mappings[0].physical != second.mappings[0].physical


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[tuple[list[Adapter], list[RawGuest]]]:
    """Two served functions, and a client for each with the same memory."""
    lead = Adapter(AdapterOptions(), link=Link(0, 2, 7))
    adapters = [lead, Adapter(AdapterOptions(), link=Link(1, 2, 7), lead=lead)]
    servers = [Server(a.device, str(tmp_path / f"s{i}")) for i, a in enumerate(adapters)]
    threads = [threading.Thread(target=server.serve) for server in servers]
    for server, adapter, thread in zip(servers, adapters, threads, strict=True):
        server.open()
        adapter.start()
        thread.start()
    first = RawGuest(str(tmp_path / "s0"))
    second = RawGuest(str(tmp_path / "s1"), memory=first.ram)
    yield adapters, [first, second]
    second.close()
    first.close()
    for server, adapter, thread in zip(servers, adapters, threads, strict=True):
        server.stop()
        thread.join(LIMIT)
        adapter.stop()
        for bar in adapter.device.bars.values():
            if bar.memory is not None:
                bar.memory.close()
    lead.backend.ram.release()


def test_both_functions_do_dma_through_one_list(
    chain: tuple[list[Adapter], list[RawGuest]],
) -> None:
    adapters, (first, second) = chain
    handle = first.start()
    second.reset()
    second.client.dma_unmap(0, second.ram.size)
    made, runs = first.create(bytes(mdl(handle, 2 * PAGE_SIZE)))
    adl, mappings = first.allocate_adl(made.adapter_object, 2 * PAGE_SIZE)
    first.map(mappings)
    assert first.commit(made.adapter_object, adl) == NtStatus.UNSUCCESSFUL
    assert first.event().parameters[5] == 1

    for logical, _, size in mappings:
        first.client.dma_unmap(logical, size)
    args = bytes(layout.AdlArgs(made.adapter_object, adl))
    assert first.request(layout.OP_RELEASE_ADL, args).status == NtStatus.SUCCESS
    adl, mappings = first.allocate_adl(made.adapter_object, 2 * PAGE_SIZE)
    first.map(mappings)
    second.map(mappings)
    assert first.commit(made.adapter_object, adl) == NtStatus.SUCCESS
    first.engine(op=layout.ENGINE_FILL, destination=mappings[0][0], size=2 * PAGE_SIZE, value=5)
    seen = second.engine(op=layout.ENGINE_CRC32, source=mappings[0][0], size=2 * PAGE_SIZE)
    assert (seen.status, seen.done) == (NtStatus.SUCCESS, 2 * PAGE_SIZE)
    assert first.bytes_of(runs)[:8] == (5).to_bytes(8, "little")

    # Neither function does DMA within exclusive access.
    exclusive = bytes(layout.ExclusiveArgs(handle))
    assert first.request(layout.OP_BEGIN_EXCLUSIVE, exclusive).status == NtStatus.SUCCESS
    second.engine(op=layout.ENGINE_CRC32, source=mappings[0][0], size=8)
    completion = first.request(layout.OP_END_EXCLUSIVE, exclusive)
    assert layout.EndExclusiveResult.from_buffer_copy(completion.result).violations == 1
    assert [adapter.exclusive_violations for adapter in adapters] == [0, 1]


def test_the_others_channel_takes_no_requests(
    chain: tuple[list[Adapter], list[RawGuest]],
) -> None:
    _, (first, second) = chain
    handle = first.start()
    second.reset()
    refused = second.request(layout.OP_STOP_ADAPTER, handle.to_bytes(8, "little"))
    assert refused.status == NtStatus.INVALID_DEVICE_REQUEST
    # And its reset takes nothing from the adapter.
    first.create(bytes(contiguous(handle, PAGE_SIZE)))


@pytest.mark.parametrize("count", [1, 5])
def test_a_chain_has_two_to_four_functions(count: int) -> None:
    sockets = [word for number in range(count) for word in ("--socket", f"s{number}")]
    result = CliRunner().invoke(main, ["serve", "--linked", *sockets])
    assert result.exit_code == 2
    assert "give 2 to 4" in result.output
