"""The frame buffer's save area: one list of it at a time, and contents that stay."""

from __future__ import annotations

import pytest

from tests.unit.vdxgk.world import World
from vdxgk.memory.ntstatus import Refused
from vdxgk.memory.objects import AddressDescriptorList
from vdxgk.memory.pages import PAGE_SIZE

SIZE = 16 * PAGE_SIZE


def pinned(world: World, adapter: int, size: int) -> AddressDescriptorList:
    adl = world.donating(lambda: world.backend.save_areas.pin(adapter, 0, size, 1))
    world.map_all(adl)
    world.backend.commit_adl(adl.opening.handle, adl.handle)
    return adl


def released(world: World, adl: AddressDescriptorList) -> None:
    world.unmap_all(adl)
    world.backend.release_adl(adl.opening.handle, adl.handle)


def test_its_pages_stay_its_own() -> None:
    world = World()
    adapter = world.start().handle
    world.backend.save_areas.reserve(adapter, 0, SIZE)
    assert world.backend.committed == SIZE
    first = pinned(world, adapter, SIZE)
    world.backend.save_areas.unpin(adapter, 0)
    released(world, first)
    second = pinned(world, adapter, PAGE_SIZE)
    assert second.mappings[0].physical == first.mappings[0].physical
    assert second.mappings[0].logical != first.mappings[0].logical


def test_a_list_that_the_guest_gives_up_leaves_it_unpinned() -> None:
    world = World()
    adapter = world.start().handle
    world.backend.save_areas.reserve(adapter, 0, SIZE)
    adl = world.donating(lambda: world.backend.save_areas.pin(adapter, 0, SIZE, 0))
    world.backend.free_adl(adl.opening.handle, adl.handle)
    released(world, adl)
    pinned(world, adapter, SIZE)


def test_stopping_takes_it_back() -> None:
    world = World()
    adapter = world.start().handle
    world.backend.save_areas.reserve(adapter, 0, SIZE)
    pinned(world, adapter, SIZE)
    assert world.backend.stop_adapter(adapter) == (0, 1)
    assert world.report.bugchecks == [7]
    assert world.backend.pool.free_bytes == world.backend.pool.donated
    assert world.backend.committed == 0


def test_it_is_committed_or_refused() -> None:
    world = World()
    adapter = world.start().handle
    with pytest.raises(Refused, match="COMMITMENT_LIMIT"):
        world.backend.save_areas.reserve(adapter, 0, 1 << 40)
