"""Sections, which get their memory late, and IO space, which brings its own."""

from __future__ import annotations

import pytest

from tests.unit.vdxgk.world import GIB, HIGH_BASE, World, io_space, section
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.ddi import AccessMode
from vdxgk.memory.limits import Quotas
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AdapterObject, ListState, PhysicalMemoryObject
from vdxgk.memory.pages import PAGE_SIZE

MIB = 1 << 20
BAR = 3 * GIB
"""In the hole below 4 GiB, where no RAM is."""


@pytest.fixture
def world() -> World:
    return World()


def refused(status: NtStatus) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, match=status.symbol)


def opening_of(target: PhysicalMemoryObject) -> AdapterObject:
    assert target.opening is not None
    return target.opening


class TestSection:
    def test_creation_takes_no_memory(self, world: World) -> None:
        target, zero = world.backend.create(section(0, MIB + 1))
        assert (target.size, target.runs, zero) == (MIB + PAGE_SIZE, [], True)
        assert (world.backend.pool.donated, world.backend.committed) == (0, MIB + PAGE_SIZE)
        assert not target.locked

    @pytest.mark.parametrize("use", ["view", "list"])
    def test_the_first_use_asks_for_memory_and_locks_it(self, world: World, use: str) -> None:
        backend = world.backend
        target = world.create(section(world.start().handle, MIB))
        opening = opening_of(target)

        def first_use() -> int:
            if use == "view":
                return backend.map(target.handle, AccessMode.KERNEL, 0, PAGE_SIZE)[1]
            return backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0).handle

        with pytest.raises(MoreMemory):
            first_use()
        assert not target.locked
        handle = world.donating(first_use)
        assert target.locked
        assert sum(run.size for run in target.runs) == MIB
        runs = list(target.runs)

        if use == "view":
            backend.unmap(handle)
        else:
            backend.free_adl(opening.handle, handle)
            backend.release_adl(opening.handle, handle)
        assert not target.locked
        # Its pages, and so its content, are still there when it is used again.
        backend.map(target.handle, AccessMode.KERNEL, 0, PAGE_SIZE)
        assert target.runs == runs

    def test_several_views_and_lists_at_once(self, world: World) -> None:
        backend = world.backend
        target = world.create(section(world.start().handle, MIB))
        views = [
            world.donating(lambda mode=mode: backend.map(target.handle, mode, 0, MIB))  # type: ignore[misc]
            for mode in (AccessMode.KERNEL, AccessMode.USER, AccessMode.USER)
        ]
        lists = [backend.allocate_adl(opening_of(target).handle, 0, MIB, 2) for _ in range(2)]
        assert lists[0].mappings[0].physical == lists[1].mappings[0].physical
        assert {mapping.size for mapping, _ in views} == {MIB}

    def test_everything_comes_back(self, world: World) -> None:
        backend = world.backend
        target = world.create(section(0, MIB))
        _, token = world.donating(lambda: backend.map(target.handle, 0, 0, MIB))
        backend.unmap(token)
        backend.destroy(target.handle, 0)
        assert backend.committed == 0
        assert backend.pool.free_bytes == backend.pool.donated > 0

    @pytest.mark.parametrize(
        ("protection", "writable"), [(2, False), (4, True), (8, False), (0x10, False)]
    )
    def test_protection_binds_user_mode(
        self, world: World, protection: int, writable: bool
    ) -> None:
        target = world.create(section(0, PAGE_SIZE, protection))
        kernel, _ = world.donating(lambda: world.backend.map(target.handle, 0, 0, PAGE_SIZE))
        user, _ = world.backend.map(target.handle, 1, 0, PAGE_SIZE)
        assert (kernel.writable, user.writable) == (True, writable)

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"protection": 0}, NtStatus.INVALID_PAGE_PROTECTION),
            ({"protection": 1}, NtStatus.INVALID_PAGE_PROTECTION),
            ({"protection": 0x404}, NtStatus.INVALID_PAGE_PROTECTION),  # with a cache bit
            ({"protection": 0x40}, NtStatus.INVALID_PAGE_PROTECTION),
            ({"attributes": 0x04000000}, NtStatus.INVALID_PARAMETER),  # SEC_RESERVE
            ({"attributes": 0x48000000}, NtStatus.INVALID_PARAMETER),  # SEC_WRITECOMBINE
            ({"cache": 0}, NtStatus.INVALID_PARAMETER),
            ({"size": 0}, NtStatus.INVALID_PARAMETER),
            ({"size": (1 << 40) + 1}, NtStatus.SECTION_TOO_BIG),
            ({"size": 16 * GIB}, NtStatus.COMMITMENT_LIMIT),
        ],
    )
    def test_bad_arguments(self, world: World, change: dict[str, int], status: NtStatus) -> None:
        with refused(status):
            world.backend.create(section(**{"adapter": 0, "size": PAGE_SIZE, **change}))
        assert (len(world.backend.objects), world.backend.committed) == (0, 0)

    @pytest.mark.parametrize(("protection", "cache", "attributes"), [(4, 2, 0), (0x10, 1, 0)])
    def test_what_is_allowed(
        self, world: World, protection: int, cache: int, attributes: int
    ) -> None:
        assert world.create(section(0, PAGE_SIZE, protection, cache, attributes))

    def test_commitment_is_a_quota(self) -> None:
        world = World(quotas=Quotas(committed_bytes=2 * MIB))
        first = world.create(section(0, MIB))
        world.create(section(0, MIB))
        with refused(NtStatus.COMMITMENT_LIMIT):
            world.backend.create(section(0, 1))
        world.backend.destroy(first.handle, 0)
        world.create(section(0, MIB))

    def test_a_list_of_it_need_not_be_contiguous(self, world: World) -> None:
        target = world.create(section(world.start().handle, MIB))
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.allocate_adl(opening_of(target).handle, 0, MIB, 1)
        assert target.runs == [], "a refused call takes no memory"


class TestIoSpace:
    def test_it_wraps_a_range_and_takes_no_memory(self, world: World) -> None:
        target, zero = world.backend.create(io_space(0, BAR, 16 * MIB))
        assert (target.runs, target.size, zero) == ([(BAR, 16 * MIB)], 16 * MIB, False)
        world.backend.destroy(target.handle, 0)
        assert world.backend.pool.donated == world.backend.pool.free_bytes == 0

    @pytest.mark.parametrize(
        ("base", "size"),
        [
            (BAR + 1, PAGE_SIZE),
            (BAR, PAGE_SIZE + 1),
            (BAR, 1),
            (BAR, 0),
            (HIGH_BASE, PAGE_SIZE),  # RAM
            (HIGH_BASE - PAGE_SIZE, 2 * PAGE_SIZE),  # partly
            ((1 << 52) - PAGE_SIZE, 2 * PAGE_SIZE),
            ((1 << 64) - PAGE_SIZE, 2 * PAGE_SIZE),
            (BAR, 1 << 50),
        ],
    )
    def test_bad_ranges(self, world: World, base: int, size: int) -> None:
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.create(io_space(0, base, size))

    def test_kernel_mappings_only(self, world: World) -> None:
        target = world.create(io_space(0, BAR, MIB))
        with refused(NtStatus.INVALID_PARAMETER):
            world.backend.map(target.handle, AccessMode.USER, 0, PAGE_SIZE)
        mapping, _ = world.backend.map(target.handle, AccessMode.KERNEL, 100, PAGE_SIZE)
        assert (mapping.offset, mapping.size) == (0, 2 * PAGE_SIZE)

    @pytest.mark.parametrize("flags", [0, 1, 2])
    def test_a_list_over_it(self, world: World, flags: int) -> None:
        target = world.create(io_space(world.start().handle, BAR, 4 * MIB))
        opening = opening_of(target)
        adl = world.backend.allocate_adl(opening.handle, MIB, 2 * MIB, flags)
        [mapping] = adl.mappings
        assert mapping.physical == BAR + MIB
        assert mapping.logical != mapping.physical
        assert adl.contiguous == bool(flags)
        # The hypervisor announces a BAR without a descriptor.
        world.table.map(mapping.logical, mapping.size, None, 0)
        world.backend.commit_adl(opening.handle, adl.handle)
        assert adl.state is ListState.LIVE

    @pytest.mark.parametrize("page", [0, 100, 511])
    @pytest.mark.parametrize("damage", ["absent", "read only", "RAM"])
    def test_the_commit_check_sees_presence_access_and_ram(
        self, world: World, page: int, damage: str
    ) -> None:
        target = world.create(io_space(world.start().handle, BAR, 2 * MIB))
        opening = opening_of(target)
        adl = world.backend.allocate_adl(opening.handle, 0, 2 * MIB, 1)
        base = adl.mappings[0].logical
        world.table.map(base, 2 * MIB, None, 0)
        logical = base + page * PAGE_SIZE
        if damage == "absent":
            world.table.unmap(logical, PAGE_SIZE)
        elif damage == "read only":
            world.table.map(logical, PAGE_SIZE, None, 0, access=1)
        else:
            world.table.map(logical, PAGE_SIZE, world.file, 0x5000)
        with refused(NtStatus.UNSUCCESSFUL):
            world.backend.commit_adl(opening.handle, adl.handle)
        [(_, failure)] = world.report.failures
        assert failure.logical == logical
        assert failure.expected == BAR + page * PAGE_SIZE
        assert failure.found == (0x5000 if damage == "RAM" else None)

    def test_ram_is_not_taken_for_a_bar_nor_a_bar_for_ram(self, world: World) -> None:
        target = world.create(section(world.start().handle, PAGE_SIZE))
        opening = opening_of(target)
        adl = world.donating(lambda: world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0))
        world.table.map(adl.mappings[0].logical, PAGE_SIZE, None, 0)
        with refused(NtStatus.UNSUCCESSFUL):
            world.backend.commit_adl(opening.handle, adl.handle)
        [(_, failure)] = world.report.failures
        assert failure.found is None
