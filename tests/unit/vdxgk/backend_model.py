"""Who holds what: the plain model that the backend is compared with after each call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tests.unit.vdxgk.world import HIGH_BASE, World
from vdxgk.conformance.worlds.guest_side import FreeMemory
from vdxgk.memory.backend import Quotas
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList, LogicalAdapter
from vdxgk.memory.pages import PAGE_SIZE, Range

T = TypeVar("T")
MIB = 1 << 20
DONATIONS = 8
VISIBLE = 2 * MIB - 1
"""So few logical addresses that lists use them up."""
GUEST = Range(HIGH_BASE, 20 * MIB)
"""So little memory that objects use it up."""
LACKS = (NtStatus.INSUFFICIENT_RESOURCES, NtStatus.NO_MEMORY, NtStatus.COMMITMENT_LIMIT)


@dataclass
class Opening:
    handle: int
    adapter: LogicalAdapter
    lists: set[int] = field(default_factory=set)


@dataclass
class Held:
    """What the model knows of an object."""

    handle: int
    kind: str
    size: int
    opening: Opening | None = None
    views: set[int] = field(default_factory=set)


@dataclass
class Saved:
    """What the model knows of an adapter's save area."""

    size: int
    pinned: AddressDescriptorList | None = None


class BackendModel(RuleBasedStateMachine):
    """A backend, a guest with little memory, and the model of both."""

    def __init__(self) -> None:
        super().__init__()
        quotas = Quotas(objects=8, lists=10, cpu_mappings=5, donated_bytes=16 * MIB)
        self.world = World(quotas=quotas)
        self.backend = self.world.backend
        self.guest = FreeMemory(GUEST)
        self.donated: dict[int, int] = {}
        self.adapters: list[LogicalAdapter] = []
        self.objects: dict[int, Held] = {}
        self.lists: dict[int, tuple[Held, AddressDescriptorList, str]] = {}
        self.save_areas: dict[int, Saved] = {}  # by the adapter's handle
        self.dead: list[int] = [1]
        self.bugchecks: list[int] = []

    @initialize()
    def two_adapters(self) -> None:
        self.adapters = [self.start(), self.start()]

    def start(self) -> LogicalAdapter:
        return self.world.start(highest_visible=VISIBLE)

    # ---- what a guest does ---------------------------------------------------

    def call(self, call: Callable[[], T], generous: bool) -> T | None:
        """The answer; None for a lack of something, which is a refusal like any other."""
        for _ in range(DONATIONS):
            try:
                return call()
            except MoreMemory as more:
                blocks = self.guest.take(more.size, more.alignment, more.lowest, more.highest)
                if blocks is None or not generous:
                    if blocks:
                        self.guest.give_back(blocks)
                    return None
                self.donate(blocks)
            except Refused as refusal:
                if refusal.status not in LACKS:
                    raise
                return None
        return None

    def donate(self, blocks: list[Range]) -> None:
        try:
            self.backend.donate(blocks)
        except Refused as refusal:
            if refusal.status not in LACKS:
                raise
            self.guest.give_back(blocks)
        else:
            self.donated |= dict(blocks)

    def refused(self, status: NtStatus, call: Callable[..., Any], *args: int) -> None:
        with pytest.raises(Refused, match=status.symbol):
            call(*args)

    def pick(self, pick: int, choices: list[T]) -> T:
        return choices[pick % len(choices)]

    def object(self, pick: int) -> Held:
        return self.pick(pick, list(self.objects.values()))

    def forget(self, held: Held) -> None:
        del self.objects[held.handle]
        self.dead += [held.handle, *held.views]
        if held.opening:
            self.dead.append(held.opening.handle)

    def in_state(self, state: str) -> list[tuple[Held, AddressDescriptorList, str]]:
        return [item for item in self.lists.values() if item[2] == state]

    @staticmethod
    def pages(adl: AddressDescriptorList) -> range:
        first = adl.mappings[0].logical
        return range(first, first + adl.size, PAGE_SIZE)

    def forget_list(self, held: Held, adl: AddressDescriptorList) -> None:
        assert held.opening
        held.opening.lists.remove(adl.handle)
        del self.lists[adl.handle]
        self.dead.append(adl.handle)

    # ---- what always holds -----------------------------------------------------

    @invariant()
    def live_handles_are_those_of_the_model(self) -> None:
        backend = self.backend
        areas = len(self.save_areas)
        drivers = {target.handle for target in backend.objects if not target.system}
        assert drivers == set(self.objects)
        assert len(backend.objects) == len(drivers) + areas
        openings = {held.opening.handle for held in self.objects.values() if held.opening}
        opened = {opening.handle for opening in backend.openings if not opening.target.system}
        assert opened == openings
        assert len(backend.openings) == len(opened) + areas
        pinned = {area.pinned.handle for area in self.save_areas.values() if area.pinned}
        assert {adl.handle for adl in backend.lists} == set(self.lists) | pinned
        views = {token for held in self.objects.values() for token in held.views}
        assert len(backend.cpu_mappings) == len(views)
        assert all(token in backend.cpu_mappings for token in views)

    @invariant()
    def memory_is_in_one_place(self) -> None:
        pool = self.backend.pool
        used = [run for target in self.backend.objects if target.is_ram for run in target.runs]
        everything = sorted([*used, *pool.free_ranges])
        assert all(a.end <= b.base for a, b in pairwise(everything)), "granted twice"
        assert sum(run.size for run in everything) == pool.donated == sum(self.donated.values())
        blocks = FreeMemory(*(Range(*block) for block in self.donated.items()))
        for run in everything:
            assert blocks.holds(run), "memory that was never donated"
        assert self.guest.total + pool.donated == GUEST.size, "lost"

    @invariant()
    def objects_have_their_size(self) -> None:
        for target in self.backend.objects:
            if target.system:
                continue
            held = self.objects[target.handle]
            in_use = sum(run.size for run in target.runs)
            assert in_use == held.size or (held.kind == "section" and not in_use)
        sections = [held.size for held in self.objects.values() if held.kind == "section"]
        sections += [area.size for area in self.save_areas.values()]
        assert self.backend.committed == sum(sections)

    @invariant()
    def logical_addresses_belong_to_one_list(self) -> None:
        for adapter in self.adapters:
            assert adapter.space is not None
            adls = [
                a for h, a, _ in self.lists.values() if h.opening and h.opening.adapter is adapter
            ]
            area = self.save_areas.get(adapter.handle)
            if area and area.pinned:
                adls.append(area.pinned)
            ranges = sorted(adl.reserved for adl in adls)
            assert all(a.end + adapter.space.GUARD <= b.base for a, b in pairwise(ranges))
            assert all(item.end - 1 <= VISIBLE for item in ranges)
            taken = sum(item.size + 2 * adapter.space.GUARD for item in ranges)
            fresh = LogicalAddressSpace(0, VISIBLE)
            assert adapter.space.free_bytes + taken == fresh.free_bytes

    @invariant()
    def bugchecks_are_those_that_were_earned(self) -> None:
        assert self.world.report.bugchecks == self.bugchecks

    def unpin_if_pinned(self, adapter: LogicalAdapter) -> bool:
        area = self.save_areas.get(adapter.handle)
        if area is None or area.pinned is None:
            return False
        self.backend.save_areas.unpin(adapter.handle, 0)
        self.world.unmap_all(area.pinned)
        self.backend.release_adl(area.pinned.opening.handle, area.pinned.handle)
        self.dead.append(area.pinned.handle)
        area.pinned = None
        return True

    def teardown(self) -> None:
        """Give everything back, as a driver should: nothing is left."""
        for held, adl, state in list(self.lists.values()):
            assert held.opening
            if state != "unmapping":
                self.backend.free_adl(held.opening.handle, adl.handle)
            self.world.unmap_all(adl)
            self.backend.release_adl(held.opening.handle, adl.handle)
        for held in self.objects.values():
            for token in held.views:
                self.backend.unmap(token)
            self.backend.destroy(held.handle, held.opening.handle if held.opening else 0)
        for adapter in self.adapters:
            self.unpin_if_pinned(adapter)
            assert self.backend.stop_adapter(adapter.handle) == (0, 0)
        backend = self.backend
        assert backend.pool.free_bytes == backend.pool.donated == backend.pool.idle_bytes
        self.guest.give_back(backend.reclaim(True, 1 << 16))
        assert backend.pool.donated == 0
        assert self.guest.total == GUEST.size
        tables: list[Any] = [backend.adapters, backend.objects, backend.openings]
        assert not any(len(table) for table in [*tables, backend.lists, backend.cpu_mappings])
        assert backend.committed == 0
        assert not self.world.table.pages
