"""The backend against a plain model: all calls in any order, two adapters, failures injected.

The model knows who holds what.  After each call the two must agree: handles
live or are dead, memory is with one object, free, or the guest's, logical
addresses belong to one list, and in the end nothing is left anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.vdxgk.conformance_worlds import FreeMemory
from tests.unit.vdxgk.world import HIGH_BASE, World, contiguous, io_space, mdl, section
from vdxgk.memory.backend import Quotas
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList, LogicalAdapter
from vdxgk.memory.pages import PAGE_SIZE, Range

T = TypeVar("T")
MIB = 1 << 20
DONATIONS = 8
BAR = 3 << 30
VISIBLE = 2 * MIB - 1
"""So few logical addresses that lists use them up."""
GUEST = Range(HIGH_BASE, 20 * MIB)
"""So little memory that objects use it up."""
LACKS = (NtStatus.INSUFFICIENT_RESOURCES, NtStatus.NO_MEMORY, NtStatus.COMMITMENT_LIMIT)
KINDS = ("mdl", "runs", "chunks", "contiguous", "section", "io-space")
PICK = st.integers(0, 1 << 16)
PAGES = st.sampled_from([1, 2, 3, 16, 100, 600])


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


class BackendStates(RuleBasedStateMachine):
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
        self.dead: list[int] = [1]
        self.bugchecks: list[int] = []

    @initialize()
    def two_adapters(self) -> None:
        self.adapters = [self._start(), self._start()]

    def _start(self) -> LogicalAdapter:
        return self.world.start(highest_visible=VISIBLE)

    # ---- what a guest does ---------------------------------------------------

    def _call(self, call: Callable[[], T], generous: bool) -> T | None:
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
                self._donate(blocks)
            except Refused as refusal:
                if refusal.status not in LACKS:
                    raise
                return None
        return None

    def _donate(self, blocks: list[Range]) -> None:
        try:
            self.backend.donate(blocks)
        except Refused as refusal:
            if refusal.status not in LACKS:
                raise
            self.guest.give_back(blocks)
        else:
            self.donated |= dict(blocks)

    def _refused(self, status: NtStatus, call: Callable[..., Any], *args: int) -> None:
        with pytest.raises(Refused, match=status.symbol):
            call(*args)

    def _pick(self, pick: int, choices: list[T]) -> T:
        return choices[pick % len(choices)]

    def _object(self, pick: int) -> Held:
        return self._pick(pick, list(self.objects.values()))

    # ---- objects -------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), pages=PAGES, pick=PICK, generous=st.booleans())
    def create(self, kind: str, pages: int, pick: int, generous: bool) -> None:
        adapter = self._pick(pick, [*self.adapters, None])
        size = pages * PAGE_SIZE
        handle = adapter.handle if adapter else 0
        args = {
            "mdl": lambda: mdl(handle, size),
            "runs": lambda: mdl(handle, size, flags=0x10),
            "chunks": lambda: mdl(handle, size, flags=0x20),
            "contiguous": lambda: contiguous(handle, size, boundary=0x400000),
            "section": lambda: section(handle, size),
            "io-space": lambda: io_space(handle, BAR, size),
        }[kind]()
        made = self._call(lambda: self.backend.create(args), generous)
        if made is None:
            return
        target, _ = made
        assert target.handle not in self.objects
        assert target.handle not in self.dead
        held = Held(target.handle, kind, size)
        if adapter:
            assert target.opening is not None
            held.opening = Opening(target.opening.handle, adapter)
        self.objects[target.handle] = held

    @precondition(lambda self: self.objects)
    @rule(pick=PICK, adapter=PICK)
    def open(self, pick: int, adapter: int) -> None:
        held, chosen = self._object(pick), self._pick(adapter, self.adapters)
        if held.opening:
            self._refused(NtStatus.INVALID_PARAMETER, self.backend.open, held.handle, chosen.handle)
        else:
            held.opening = Opening(self.backend.open(held.handle, chosen.handle).handle, chosen)

    @precondition(lambda self: any(held.opening for held in self.objects.values()))
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        held = self._pick(pick, [held for held in self.objects.values() if held.opening])
        assert held.opening
        if held.opening.lists:
            self.bugchecks.append(7)
            self._refused(NtStatus.RESOURCE_IN_USE, self.backend.close, held.opening.handle)
        else:
            self.backend.close(held.opening.handle)
            self.dead.append(held.opening.handle)
            held.opening = None

    @precondition(lambda self: self.objects)
    @rule(pick=PICK, with_opening=st.booleans())
    def destroy(self, pick: int, with_opening: bool) -> None:
        held = self._object(pick)
        opening = held.opening.handle if held.opening and with_opening else 0
        if held.opening and held.opening.lists:
            self.bugchecks.append(7)
        elif held.opening and not opening:
            self.bugchecks.append(6)
        elif not held.views:
            self.backend.destroy(held.handle, opening)
            self._forget(held)
            return
        self._refused(NtStatus.RESOURCE_IN_USE, self.backend.destroy, held.handle, opening)

    def _forget(self, held: Held) -> None:
        del self.objects[held.handle]
        self.dead += [held.handle, *held.views]
        if held.opening:
            self.dead.append(held.opening.handle)

    # ---- views ---------------------------------------------------------------

    @precondition(lambda self: self.objects)
    @rule(pick=PICK, generous=st.booleans(), place=PICK, size=st.integers(1, 3 * PAGE_SIZE))
    def map(self, pick: int, generous: bool, place: int, size: int) -> None:
        held = self._object(pick)
        offset = place % held.size
        if offset + size > held.size:
            self._refused(
                NtStatus.INVALID_PARAMETER, self.backend.map, held.handle, 0, offset, size
            )
            return
        made = self._call(lambda: self.backend.map(held.handle, 0, offset, size), generous)
        if made is not None:
            view, token = made
            assert view.offset <= offset
            assert offset + size <= view.offset + view.size <= held.size
            held.views.add(token)

    @precondition(lambda self: any(held.views for held in self.objects.values()))
    @rule(pick=PICK)
    def unmap(self, pick: int) -> None:
        held = self._pick(pick, [held for held in self.objects.values() if held.views])
        token = held.views.pop()
        self.backend.unmap(token)
        self.dead.append(token)

    # ---- lists ---------------------------------------------------------------

    @precondition(lambda self: any(held.opening for held in self.objects.values()))
    @rule(pick=PICK, part=PICK, flags=st.sampled_from([0, 1, 2]), generous=st.booleans())
    def allocate(self, pick: int, part: int, flags: int, generous: bool) -> None:
        held = self._pick(pick, [held for held in self.objects.values() if held.opening])
        opening = held.opening
        assert opening
        offset = part % (held.size // PAGE_SIZE) * PAGE_SIZE
        size = held.size - offset
        if flags == 1 and held.kind not in ("contiguous", "io-space"):
            self._refused(
                NtStatus.INVALID_PARAMETER,
                self.backend.allocate_adl,
                *(opening.handle, offset, size, flags),
            )
            return
        adl = self._call(
            lambda: self.backend.allocate_adl(opening.handle, offset, size, flags), generous
        )
        if adl is not None:
            assert adl.handle not in self.dead
            assert sum(mapping.size for mapping in adl.mappings) == size
            opening.lists.add(adl.handle)
            self.lists[adl.handle] = (held, adl, "mapping")

    def _in_state(self, state: str) -> list[tuple[Held, AddressDescriptorList, str]]:
        return [item for item in self.lists.values() if item[2] == state]

    @precondition(lambda self: self._in_state("mapping"))
    @rule(pick=PICK, damage=st.sampled_from(["", "", "skip", "read-only", "wrong"]))
    def commit(self, pick: int, damage: str) -> None:
        held, adl, _ = self._pick(pick, self._in_state("mapping"))
        assert held.opening
        for mapping in adl.mappings:
            if held.kind == "io-space":
                self.world.table.map(mapping.logical, mapping.size, None, 0)
            else:
                self.world.map(mapping)
        page = self._pick(pick, list(self._pages(adl)))
        if damage == "skip":
            del self.world.table.pages[page]
        elif damage == "read-only":
            self.world.table.pages[page].access = 1
        elif damage == "wrong":
            # Into RAM, and not to the page that was chosen.
            self.world.table.map(page, PAGE_SIZE, self.world.file, 0)
        if damage:
            failures = len(self.world.report.failures)
            self._refused(
                NtStatus.UNSUCCESSFUL, self.backend.commit_adl, held.opening.handle, adl.handle
            )
            assert self.world.report.failures[failures][1].logical == page
            self.lists[adl.handle] = (held, adl, "unmapping")
        else:
            self.backend.commit_adl(held.opening.handle, adl.handle)
            self.lists[adl.handle] = (held, adl, "live")

    @staticmethod
    def _pages(adl: AddressDescriptorList) -> range:
        first = adl.mappings[0].logical
        return range(first, first + adl.size, PAGE_SIZE)

    @precondition(lambda self: self._in_state("mapping") or self._in_state("live"))
    @rule(pick=PICK)
    def free(self, pick: int) -> None:
        held, adl, _ = self._pick(pick, self._in_state("mapping") + self._in_state("live"))
        assert held.opening
        self.backend.free_adl(held.opening.handle, adl.handle)
        self.lists[adl.handle] = (held, adl, "unmapping")

    @precondition(lambda self: self._in_state("unmapping"))
    @rule(pick=PICK, leave=st.booleans())
    def release(self, pick: int, leave: bool) -> None:
        held, adl, _ = self._pick(pick, self._in_state("unmapping"))
        assert held.opening
        self.world.unmap_all(adl)
        if leave:
            page = self._pick(pick, list(self._pages(adl)))
            self.world.table.map(page, PAGE_SIZE, self.world.file, 0)
            self._refused(
                NtStatus.UNSUCCESSFUL, self.backend.release_adl, held.opening.handle, adl.handle
            )
            assert self.world.report.failures[-1][1].logical == page
            return
        self.backend.release_adl(held.opening.handle, adl.handle)
        self._forget_list(held, adl)

    def _forget_list(self, held: Held, adl: AddressDescriptorList) -> None:
        assert held.opening
        held.opening.lists.remove(adl.handle)
        del self.lists[adl.handle]
        self.dead.append(adl.handle)

    @precondition(lambda self: self.lists)
    @rule(pick=PICK)
    def calls_that_do_not_fit_the_lists_state(self, pick: int) -> None:
        held, adl, state = self._pick(pick, list(self.lists.values()))
        assert held.opening
        which = (held.opening.handle, adl.handle)
        if state != "mapping":
            self._refused(NtStatus.INVALID_DEVICE_REQUEST, self.backend.commit_adl, *which)
        if state != "unmapping":
            self._refused(NtStatus.INVALID_DEVICE_REQUEST, self.backend.release_adl, *which)
        else:
            self._refused(NtStatus.INVALID_HANDLE, self.backend.free_adl, *which)

    # ---- the whole -----------------------------------------------------------

    @rule(pick=PICK)
    def dead_handles_stay_dead(self, pick: int) -> None:
        handle = self._pick(pick, self.dead)
        adapter = self.adapters[0].handle
        backend = self.backend
        for call, args in (
            (backend.open, (handle, adapter)),
            (backend.close, (handle,)),
            (backend.destroy, (handle, 0)),
            (backend.map, (handle, 0, 0, 1)),
            (backend.unmap, (handle,)),
            (backend.allocate_adl, (handle, 0, PAGE_SIZE, 0)),
            (backend.free_adl, (handle, handle)),
            (backend.commit_adl, (handle, handle)),
            (backend.release_adl, (handle, handle)),
        ):
            self._refused(NtStatus.INVALID_HANDLE, call, *args)
        for held in self.objects.values():
            self._refused(NtStatus.INVALID_HANDLE, backend.open, held.handle, handle)
            self._refused(NtStatus.INVALID_HANDLE, backend.destroy, held.handle, handle)

    @precondition(lambda self: self.lists and len(self.objects) > 1)
    @rule(pick=PICK, other=PICK)
    def a_list_belongs_to_one_adapter_object(self, pick: int, other: int) -> None:
        held, adl, _ = self._pick(pick, list(self.lists.values()))
        stranger = self._object(other)
        if stranger.opening and stranger is not held:
            self._refused(
                NtStatus.INVALID_HANDLE, self.backend.free_adl, stranger.opening.handle, adl.handle
            )

    @rule(everything=st.booleans(), limit=st.integers(0, 3))
    def reclaim(self, everything: bool, limit: int) -> None:
        blocks = self.backend.reclaim(everything, limit)
        assert len(blocks) <= limit
        for block in blocks:
            assert self.donated.pop(block.base) == block.size
        self.guest.give_back(blocks)

    @rule(pick=PICK)
    def stop_and_start_an_adapter(self, pick: int) -> None:
        place = pick % len(self.adapters)
        adapter = self.adapters[place]
        leaked = [
            held
            for held in self.objects.values()
            if held.opening and held.opening.adapter is adapter
        ]
        lists = [item for item in self.lists.values() if item[0] in leaked]
        assert self.backend.stop_adapter(adapter.handle) == (len(leaked), len(lists))
        self.bugchecks += ([7] if lists else []) + ([6] if leaked else [])
        for held, adl, _ in lists:
            self.world.unmap_all(adl)
            self._forget_list(held, adl)
        for held in leaked:
            self._forget(held)
        self.dead.append(adapter.handle)
        self.adapters[place] = self._start()

    # ---- what always holds -----------------------------------------------------

    @invariant()
    def live_handles_are_those_of_the_model(self) -> None:
        backend = self.backend
        assert {target.handle for target in backend.objects} == set(self.objects)
        openings = {held.opening.handle for held in self.objects.values() if held.opening}
        assert {opening.handle for opening in backend.openings} == openings
        assert {adl.handle for adl in backend.lists} == set(self.lists)
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
            held = self.objects[target.handle]
            in_use = sum(run.size for run in target.runs)
            assert in_use == held.size or (held.kind == "section" and not in_use)
        sections = [held for held in self.objects.values() if held.kind == "section"]
        assert self.backend.committed == sum(held.size for held in sections)

    @invariant()
    def logical_addresses_belong_to_one_list(self) -> None:
        for adapter in self.adapters:
            assert adapter.space is not None
            adls = [
                a for h, a, _ in self.lists.values() if h.opening and h.opening.adapter is adapter
            ]
            ranges = sorted(adl.reserved for adl in adls)
            assert all(a.end + adapter.space.GUARD <= b.base for a, b in pairwise(ranges))
            assert all(item.end - 1 <= VISIBLE for item in ranges)
            taken = sum(item.size + 2 * adapter.space.GUARD for item in ranges)
            fresh = LogicalAddressSpace(0, VISIBLE)
            assert adapter.space.free_bytes + taken == fresh.free_bytes

    @invariant()
    def bugchecks_are_those_that_were_earned(self) -> None:
        assert self.world.report.bugchecks == self.bugchecks

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


TestBackendStates = BackendStates.TestCase
TestBackendStates.settings = settings(
    max_examples=100, stateful_step_count=50, derandomize=True, deadline=None
)
