"""The backend's rules: adapters, objects, lists, and the checks of remapping."""

from __future__ import annotations

import pytest

from tests.unit.vdxgk.world import GIB, HIGH_BASE, LOW_RAM, World, contiguous, mdl
from vdxgk.memory.backend import Quotas
from vdxgk.memory.ddi import CreatePhysicalMemoryObject, IommuCaps
from vdxgk.memory.logical import MSI_WINDOW, LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressingMode, ListState, WantedMapping
from vdxgk.memory.pages import LARGE_PAGE_SIZE, PAGE_SIZE, Range

MIB = 1 << 20


@pytest.fixture
def world() -> World:
    return World()


def refused(status: NtStatus) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=status.symbol)


class TestStart:
    def test_physical_mode_refuses_memory_above_the_reach(self, world: World) -> None:
        with refused(NtStatus.NOT_SUPPORTED):
            world.start(mode=AddressingMode.PHYSICAL)

    def test_physical_mode_starts_when_the_gpu_reaches_all_memory(self) -> None:
        adapter = World(dma_bits=40).start(
            mode=AddressingMode.PHYSICAL, highest_visible=(1 << 40) - 1
        )
        assert adapter.space is None

    def test_without_translation_and_out_of_reach_nothing_starts(self, world: World) -> None:
        with refused(NtStatus.NOT_SUPPORTED):
            world.start(translated=False)

    def test_a_driver_without_remapping_support_is_not_remapped(self, world: World) -> None:
        with refused(NtStatus.NOT_SUPPORTED):
            world.start(caps=IommuCaps(0), mode=AddressingMode.LOGICAL)

    def test_auto_prefers_logical(self, world: World) -> None:
        assert world.start().mode is AddressingMode.LOGICAL

    def test_the_device_width_bounds_logical_addresses_whatever_the_driver_claims(self) -> None:
        adapter = World(dma_bits=32).start(highest_visible=(1 << 48) - 1)
        assert adapter.space is not None
        assert adapter.space.end == (1 << 32) - 1

    def test_private_memory_is_told_apart(self, world: World) -> None:
        world.file.write(LOW_RAM, bytes(8))
        real = world.file.write
        world.file.write = lambda offset, data: None  # type: ignore[method-assign]
        with pytest.raises(Refused, match="share=on"):
            world.start()
        world.file.write = real  # type: ignore[method-assign]

    def test_no_visible_memory_is_invalid(self, world: World) -> None:
        with refused(NtStatus.INVALID_PARAMETER):
            world.start(highest_visible=0)


class TestCreate:
    def test_contiguous_is_one_run_above_four_gib(self, world: World) -> None:
        target = world.create(contiguous(world.start().handle, 4 * MIB))
        assert len(target.runs) == 1
        assert target.runs[0].base >= HIGH_BASE
        assert target.runs[0].base % LARGE_PAGE_SIZE == 0

    def test_a_size_within_a_page_becomes_a_page(self, world: World) -> None:
        assert world.create(contiguous(world.start().handle, 1)).size == PAGE_SIZE

    def test_mdl_pages_are_scattered(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, MIB))
        assert len(target.runs) > 200
        assert sorted(target.runs) != target.runs

    def test_prefer_contiguous_gives_few_runs(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 8 * MIB, flags=0x10))
        assert len(target.runs) <= 4
        assert all(run.base % LARGE_PAGE_SIZE == 0 for run in target.runs)

    def test_bounds_hold_for_every_byte(self, world: World) -> None:
        low, high = HIGH_BASE + 5 * LARGE_PAGE_SIZE, HIGH_BASE + 64 * MIB - 1
        target = world.create(contiguous(world.start().handle, MIB, low, high))
        assert low <= target.runs[0].base
        assert target.runs[0].end - 1 <= high

    def test_no_run_crosses_the_boundary(self, world: World) -> None:
        adapter = world.start().handle
        world.create(contiguous(adapter, 12 * 1024))
        for _ in range(20):
            run = world.create(contiguous(adapter, 12 * 1024, boundary=16 * 1024)).runs[0]
            assert run.base // 0x4000 == (run.end - 1) // 0x4000

    def test_chunks_are_aligned_to_their_size(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 256 << 10, flags=0x20, skip=64 << 10))
        assert sum(run.size for run in target.runs) == 256 << 10
        assert all(run.base % (64 << 10) == 0 for run in target.runs)

    def test_skip_bytes_searches_further_windows(self, world: World) -> None:
        # The first window holds one page, the windows behind it one each.
        args = mdl(
            world.start().handle,
            8 * PAGE_SIZE,
            low=HIGH_BASE,
            high=HIGH_BASE + PAGE_SIZE - 1,
            skip=64 << 10,
        )
        target = world.create(args)
        assert all((run.base - HIGH_BASE) % (64 << 10) == 0 for run in target.runs)
        assert sum(run.size for run in target.runs) == 8 * PAGE_SIZE

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"Size": 0}, NtStatus.INVALID_PARAMETER),
            ({"Type": 4}, NtStatus.INVALID_PARAMETER),
            ({"Type": 0xFFFFFFFF}, NtStatus.INVALID_PARAMETER),
            ({"CacheType": 3}, NtStatus.INVALID_PARAMETER),
            ({"Size": (1 << 64) - 1}, NtStatus.NO_MEMORY),
            ({"Size": 64 * GIB}, NtStatus.NO_MEMORY),
            ({"hAdapter": 0x1234}, NtStatus.INVALID_HANDLE),
        ],
    )
    def test_bad_arguments(self, world: World, change: dict[str, int], status: NtStatus) -> None:
        args = contiguous(world.start().handle, PAGE_SIZE)
        for name, value in change.items():
            setattr(args, name, value)
        with refused(status):
            world.backend.create(args)
        assert len(world.backend.objects) == 0

    @pytest.mark.parametrize(
        "args",
        [
            contiguous(0, PAGE_SIZE, low=2, high=1),
            contiguous(0, PAGE_SIZE, boundary=0x3000),
            contiguous(0, PAGE_SIZE, boundary=0x800),
            mdl(0, PAGE_SIZE, low=2, high=1),
            mdl(0, PAGE_SIZE, skip=1),
            mdl(0, PAGE_SIZE, flags=0x80),
            mdl(0, PAGE_SIZE, flags=0x40),
            mdl(0, PAGE_SIZE, flags=0x104),
            mdl(0, 3 * PAGE_SIZE, flags=0x20, skip=2 * PAGE_SIZE),
            mdl(0, 4 << 30),
        ],
    )
    def test_bad_bounds_and_flags(self, world: World, args: CreatePhysicalMemoryObject) -> None:
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.create(args)

    def test_a_boundary_smaller_than_the_size_can_never_be_met(self, world: World) -> None:
        with refused(NtStatus.NO_MEMORY):
            world.backend.create(contiguous(0, 3 * PAGE_SIZE, boundary=2 * PAGE_SIZE))

    def test_the_object_limit_is_a_status(self) -> None:
        world = World(quotas=Quotas(objects=2))
        adapter = world.start().handle
        for _ in range(2):
            world.create(contiguous(adapter, PAGE_SIZE))
        with refused(NtStatus.INSUFFICIENT_RESOURCES):
            world.create(contiguous(adapter, PAGE_SIZE))


class TestLifetime:
    def test_without_an_adapter_open_comes_later(self, world: World) -> None:
        adapter = world.start()
        target = world.create(mdl(0, PAGE_SIZE))
        assert target.opening is None
        opening = world.backend.open(target.handle, adapter.handle)
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.open(target.handle, adapter.handle)
        world.backend.close(opening.handle)
        world.backend.open(target.handle, adapter.handle)

    def test_destroy_wants_the_open_adapter_object(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, PAGE_SIZE))
        assert target.opening is not None
        with refused(NtStatus.RESOURCE_IN_USE):
            world.backend.destroy(target.handle, 0)
        assert world.report.bugchecks == [6]
        world.backend.destroy(target.handle, target.opening.handle)
        with refused(NtStatus.INVALID_HANDLE):
            world.backend.destroy(target.handle, 0)

    def test_destroy_with_a_live_list_is_a_bugcheck(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, PAGE_SIZE))
        opening = target.opening
        assert opening is not None
        adl = world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)
        world.map_all(adl)
        world.backend.commit_adl(opening.handle, adl.handle)
        with refused(NtStatus.RESOURCE_IN_USE):
            world.backend.destroy(target.handle, opening.handle)
        with refused(NtStatus.RESOURCE_IN_USE):
            world.backend.close(opening.handle)
        assert world.report.bugchecks == [7, 7]

    def test_a_cpu_mapping_keeps_the_object(self, world: World) -> None:
        target = world.create(mdl(0, 2 * PAGE_SIZE))
        mapping, token = world.backend.map(target.handle, 0, 100, PAGE_SIZE)
        assert (mapping.offset, mapping.size) == (0, 2 * PAGE_SIZE)
        with refused(NtStatus.RESOURCE_IN_USE):
            world.backend.destroy(target.handle, 0)
        world.backend.unmap(token)
        world.backend.destroy(target.handle, 0)

    def test_handles_of_another_kind_are_refused(self, world: World) -> None:
        adapter = world.start()
        target = world.create(mdl(adapter.handle, PAGE_SIZE))
        with refused(NtStatus.INVALID_HANDLE):
            world.backend.close(target.handle)
        with refused(NtStatus.INVALID_HANDLE):
            world.backend.destroy(adapter.handle, 0)

    def test_stopping_forgets_and_reports_leaks(self, world: World) -> None:
        adapter = world.start()
        target = world.create(mdl(adapter.handle, PAGE_SIZE))
        assert target.opening is not None
        world.backend.allocate_adl(target.opening.handle, 0, PAGE_SIZE, 0)
        assert world.backend.stop_adapter(adapter.handle) == (1, 1)
        assert sorted(world.report.bugchecks) == [6, 7]
        assert len(world.backend.lists) == len(world.backend.openings) == 0
        assert world.backend.pool.free_bytes == world.backend.pool.donated

    def test_everything_can_be_given_back(self, world: World) -> None:
        target = world.create(mdl(0, MIB))
        donated = world.backend.pool.donated
        world.backend.destroy(target.handle, 0)
        back = world.backend.reclaim(True, 1 << 20)
        assert sum(block.size for block in back) == donated
        assert world.backend.pool.donated == 0

    def test_used_blocks_are_not_given_back(self, world: World) -> None:
        target = world.create(contiguous(0, PAGE_SIZE))
        assert not any(
            block.base <= target.runs[0].base < block.end
            for block in world.backend.reclaim(True, 1 << 20)
        )


class TestDonation:
    @pytest.mark.parametrize(
        "block",
        [
            Range(HIGH_BASE + 1, PAGE_SIZE),
            Range(HIGH_BASE, 0),
            Range(HIGH_BASE, 100),
            Range(3 * GIB, PAGE_SIZE),  # the hole below 4 GiB
            Range((1 << 64) - PAGE_SIZE, 2 * PAGE_SIZE),
        ],
    )
    def test_what_is_not_guest_ram_is_refused(self, world: World, block: Range) -> None:
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.donate([block])

    def test_all_or_none(self, world: World) -> None:
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.donate([Range(HIGH_BASE, 0x2000), Range(HIGH_BASE + 0x1000, 0x2000)])
        assert world.backend.pool.donated == 0

    def test_the_quota_is_a_status(self) -> None:
        world = World(quotas=Quotas(donated_bytes=PAGE_SIZE))
        with refused(NtStatus.INSUFFICIENT_RESOURCES):
            world.backend.donate([Range(HIGH_BASE, 2 * PAGE_SIZE)])


class TestLists:
    def test_a_committed_list_is_live(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 16 * PAGE_SIZE))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 0, 16 * PAGE_SIZE, 2)
        assert adl.contiguous
        assert all(m.logical != m.physical for m in adl.mappings)
        world.map_all(adl)
        world.backend.commit_adl(target.opening.handle, adl.handle)
        assert adl.state is ListState.LIVE

    @pytest.mark.parametrize("page", [0, 7, 15])
    @pytest.mark.parametrize("damage", ["skip", "wrong page", "read only"])
    def test_the_commit_check_names_the_damaged_page(
        self, world: World, page: int, damage: str
    ) -> None:
        target = world.create(mdl(world.start().handle, 16 * PAGE_SIZE))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 0, 16 * PAGE_SIZE, 0)
        world.map_all(adl)
        logical = adl.mappings[0].logical + page * PAGE_SIZE
        piece = world.table.pages[logical]
        if damage == "skip":
            del world.table.pages[logical]
        elif damage == "wrong page":
            piece.offset += PAGE_SIZE
        else:
            piece.access = 1
        with refused(NtStatus.UNSUCCESSFUL):
            world.backend.commit_adl(target.opening.handle, adl.handle)
        [(handle, failure)] = world.report.failures
        assert handle == adl.handle
        assert failure.logical == logical
        assert failure.expected == _physical(adl.mappings, logical)
        if damage == "skip":
            assert failure.found is None
        elif damage == "wrong page":
            assert failure.found == _physical(adl.mappings, logical) + PAGE_SIZE
        else:
            assert failure.access == 1
        assert adl.state is ListState.UNMAPPING

    def test_a_list_that_stays_mapped_is_reported_and_its_range_kept(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 4 * PAGE_SIZE))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 0, 4 * PAGE_SIZE, 0)
        world.map_all(adl)
        world.backend.commit_adl(target.opening.handle, adl.handle)
        world.backend.free_adl(target.opening.handle, adl.handle)
        with refused(NtStatus.UNSUCCESSFUL):
            world.backend.release_adl(target.opening.handle, adl.handle)
        assert "still mapped" in world.report.failures[0][1].reason
        world.unmap_all(adl)
        world.backend.release_adl(target.opening.handle, adl.handle)
        with refused(NtStatus.INVALID_HANDLE):
            world.backend.free_adl(target.opening.handle, adl.handle)

    @pytest.mark.parametrize(
        ("offset", "size", "flags"),
        [
            (1, PAGE_SIZE, 0),
            (0, 1, 0),
            (0, 0, 0),
            (0, 65 * PAGE_SIZE, 0),
            (64 * PAGE_SIZE, PAGE_SIZE, 0),
            ((1 << 64) - PAGE_SIZE, 2 * PAGE_SIZE, 0),
            (0, PAGE_SIZE, 4),
            (0, PAGE_SIZE, 1),  # RequireContiguous on an MDL
        ],
    )
    def test_bad_arguments(self, world: World, offset: int, size: int, flags: int) -> None:
        target = world.create(mdl(world.start().handle, 64 * PAGE_SIZE))
        assert target.opening is not None
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.allocate_adl(target.opening.handle, offset, size, flags)

    def test_large_blocks_are_large_mappings(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 8 * MIB, flags=0x10))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 0, 8 * MIB, 0)
        for mapping in adl.mappings:
            assert (mapping.logical - mapping.physical) % LARGE_PAGE_SIZE == 0

    def test_part_of_an_object(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 64 * PAGE_SIZE))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 10 * PAGE_SIZE, 2 * PAGE_SIZE, 0)
        pages = [r.base + i for r in target.runs for i in range(0, r.size, PAGE_SIZE)]
        base = adl.mappings[0].logical
        listed = [_physical(adl.mappings, base + i * PAGE_SIZE) for i in (0, 1)]
        assert listed == pages[10:12]

    def test_announcements_are_counted_for_their_list(self, world: World) -> None:
        target = world.create(mdl(world.start().handle, 4 * PAGE_SIZE))
        assert target.opening is not None
        adl = world.backend.allocate_adl(target.opening.handle, 0, 4 * PAGE_SIZE, 0)
        base = adl.mappings[0].logical
        for iova in (base, base + PAGE_SIZE, base + 4 * PAGE_SIZE, base - PAGE_SIZE):
            world.backend.announced(iova)
        assert adl.announced == 2


class TestLogicalAddresses:
    def test_never_the_msi_window_nor_reserved_regions(self) -> None:
        reserved = Range(0x80000000, 0x40000000)
        space = LogicalAddressSpace(0, (1 << 32) - 1, [reserved])
        bases = []
        while True:
            try:
                bases.append(space.reserve(64 * MIB, LARGE_PAGE_SIZE, 0, []))
            except Refused:
                break
        assert len(bases) > 30
        for base in bases:
            for bad in (reserved, MSI_WINDOW):
                assert base + 64 * MIB <= bad.base or base >= bad.end

    def test_never_equal_to_the_physical_address(self) -> None:
        space = LogicalAddressSpace(0, (1 << 32) - 1)
        first = space.reserve(PAGE_SIZE, PAGE_SIZE, 0, [])
        space = LogicalAddressSpace(0, (1 << 32) - 1)
        assert space.reserve(PAGE_SIZE, PAGE_SIZE, 0, [Range(first, PAGE_SIZE)]) != first

    def test_a_guard_lies_between_lists(self) -> None:
        space = LogicalAddressSpace(0, (1 << 32) - 1)
        first = space.reserve(PAGE_SIZE, PAGE_SIZE, 0, [])
        second = space.reserve(PAGE_SIZE, PAGE_SIZE, 0, [])
        assert second - (first + PAGE_SIZE) >= space.GUARD

    def test_freed_addresses_come_back_last(self) -> None:
        space = LogicalAddressSpace(0, (1 << 32) - 1)
        first = space.reserve(PAGE_SIZE, PAGE_SIZE, 0, [])
        space.release(first, PAGE_SIZE)
        assert space.reserve(PAGE_SIZE, PAGE_SIZE, 0, []) != first

    def test_all_of_it_comes_back(self) -> None:
        space = LogicalAddressSpace(0, (1 << 32) - 1)
        before = space.free_bytes
        base = space.reserve(3 * PAGE_SIZE, PAGE_SIZE, 0, [])
        space.release(base, 3 * PAGE_SIZE)
        assert space.free_bytes == before


def _physical(mappings: list[WantedMapping], logical: int) -> int:
    for mapping in mappings:
        into = logical - mapping.logical
        if 0 <= into < mapping.size:
            return mapping.physical + into
    raise AssertionError(hex(logical))
