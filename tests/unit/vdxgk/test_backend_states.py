"""The backend against a plain model: all calls in any order, two adapters, failures injected.

After each call the two must agree: handles live or are dead, memory is with
one object, free, or the guest's, logical addresses belong to one list, and in
the end nothing is left anywhere.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.unit.vdxgk.backend_model import BackendModel, Held, Opening, Saved
from tests.unit.vdxgk.world import contiguous, io_space, mdl, section
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList, AddressingMode, LogicalAdapter
from vdxgk.memory.pages import PAGE_SIZE

BAR = 3 << 30
KINDS = ("mdl", "runs", "chunks", "contiguous", "section", "io-space")
PICK = st.integers(0, 1 << 16)
PAGES = st.sampled_from([1, 2, 3, 16, 100, 600])


class BackendStates(BackendModel):
    # ---- objects -------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS), pages=PAGES, pick=PICK, generous=st.booleans())
    def create(self, kind: str, pages: int, pick: int, generous: bool) -> None:
        adapter = self.pick(pick, [*self.adapters, None])
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
        made = self.call(lambda: self.backend.create(args), generous)
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
        held, chosen = self.object(pick), self.pick(adapter, self.adapters)
        if held.opening:
            self.refused(NtStatus.INVALID_PARAMETER, self.backend.open, held.handle, chosen.handle)
        else:
            held.opening = Opening(self.backend.open(held.handle, chosen.handle).handle, chosen)

    @precondition(lambda self: any(held.opening for held in self.objects.values()))
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        held = self.pick(pick, [held for held in self.objects.values() if held.opening])
        assert held.opening
        if held.opening.lists:
            self.bugchecks.append(7)
            self.refused(NtStatus.RESOURCE_IN_USE, self.backend.close, held.opening.handle)
        else:
            self.backend.close(held.opening.handle)
            self.dead.append(held.opening.handle)
            held.opening = None

    @precondition(lambda self: self.objects)
    @rule(pick=PICK, with_opening=st.booleans())
    def destroy(self, pick: int, with_opening: bool) -> None:
        held = self.object(pick)
        opening = held.opening.handle if held.opening and with_opening else 0
        if held.opening and held.opening.lists:
            self.bugchecks.append(7)
        elif held.opening and not opening:
            self.bugchecks.append(6)
        elif not held.views:
            self.backend.destroy(held.handle, opening)
            self.forget(held)
            return
        self.refused(NtStatus.RESOURCE_IN_USE, self.backend.destroy, held.handle, opening)

    # ---- views ---------------------------------------------------------------

    @precondition(lambda self: self.objects)
    @rule(pick=PICK, generous=st.booleans(), place=PICK, size=st.integers(1, 3 * PAGE_SIZE))
    def map(self, pick: int, generous: bool, place: int, size: int) -> None:
        held = self.object(pick)
        offset = place % held.size
        if offset + size > held.size:
            self.refused(NtStatus.INVALID_PARAMETER, self.backend.map, held.handle, 0, offset, size)
            return
        made = self.call(lambda: self.backend.map(held.handle, 0, offset, size), generous)
        if made is not None:
            view, token = made
            assert view.offset <= offset
            assert offset + size <= view.offset + view.size <= held.size
            held.views.add(token)

    @precondition(lambda self: any(held.views for held in self.objects.values()))
    @rule(pick=PICK)
    def unmap(self, pick: int) -> None:
        held = self.pick(pick, [held for held in self.objects.values() if held.views])
        token = held.views.pop()
        self.backend.unmap(token)
        self.dead.append(token)

    # ---- lists ---------------------------------------------------------------

    @precondition(lambda self: any(held.opening for held in self.objects.values()))
    @rule(pick=PICK, part=PICK, flags=st.sampled_from([0, 1, 2]), generous=st.booleans())
    def allocate(self, pick: int, part: int, flags: int, generous: bool) -> None:
        held = self.pick(pick, [held for held in self.objects.values() if held.opening])
        opening = held.opening
        assert opening
        offset = part % (held.size // PAGE_SIZE) * PAGE_SIZE
        size = held.size - offset
        if flags == 1 and held.kind not in ("contiguous", "io-space"):
            self.refused(
                NtStatus.INVALID_PARAMETER,
                self.backend.allocate_adl,
                *(opening.handle, offset, size, flags),
            )
            return
        adl = self.call(
            lambda: self.backend.allocate_adl(opening.handle, offset, size, flags), generous
        )
        if adl is not None:
            assert adl.handle not in self.dead
            assert sum(mapping.size for mapping in adl.mappings) == size
            opening.lists.add(adl.handle)
            self.lists[adl.handle] = (held, adl, "mapping")

    @precondition(lambda self: self.in_state("mapping"))
    @rule(pick=PICK, damage=st.sampled_from(["", "", "skip", "read-only", "wrong"]))
    def commit(self, pick: int, damage: str) -> None:
        held, adl, _ = self.pick(pick, self.in_state("mapping"))
        assert held.opening
        for mapping in adl.mappings:
            if held.kind == "io-space":
                self.world.table.map(mapping.logical, mapping.size, None, 0)
            else:
                self.world.map(mapping)
        page = self.pick(pick, list(self.pages(adl)))
        if damage == "skip":
            del self.world.table.pages[page]
        elif damage == "read-only":
            self.world.table.pages[page].access = 1
        elif damage == "wrong":
            # Into RAM, and not to the page that was chosen.
            self.world.table.map(page, PAGE_SIZE, self.world.file, 0)
        if damage:
            failures = len(self.world.report.failures)
            self.refused(
                NtStatus.UNSUCCESSFUL, self.backend.commit_adl, held.opening.handle, adl.handle
            )
            assert self.world.report.failures[failures][1].logical == page
            self.lists[adl.handle] = (held, adl, "unmapping")
        else:
            self.backend.commit_adl(held.opening.handle, adl.handle)
            self.lists[adl.handle] = (held, adl, "live")

    @precondition(lambda self: self.in_state("mapping") or self.in_state("live"))
    @rule(pick=PICK)
    def free(self, pick: int) -> None:
        held, adl, _ = self.pick(pick, self.in_state("mapping") + self.in_state("live"))
        assert held.opening
        self.backend.free_adl(held.opening.handle, adl.handle)
        self.lists[adl.handle] = (held, adl, "unmapping")

    @precondition(lambda self: self.in_state("unmapping"))
    @rule(pick=PICK, leave=st.booleans())
    def release(self, pick: int, leave: bool) -> None:
        held, adl, _ = self.pick(pick, self.in_state("unmapping"))
        assert held.opening
        self.world.unmap_all(adl)
        if leave:
            page = self.pick(pick, list(self.pages(adl)))
            self.world.table.map(page, PAGE_SIZE, self.world.file, 0)
            self.refused(
                NtStatus.UNSUCCESSFUL, self.backend.release_adl, held.opening.handle, adl.handle
            )
            assert self.world.report.failures[-1][1].logical == page
            return
        self.backend.release_adl(held.opening.handle, adl.handle)
        self.forget_list(held, adl)

    @precondition(lambda self: self.lists)
    @rule(pick=PICK)
    def calls_that_do_not_fit_the_lists_state(self, pick: int) -> None:
        held, adl, state = self.pick(pick, list(self.lists.values()))
        assert held.opening
        which = (held.opening.handle, adl.handle)
        if state != "mapping":
            self.refused(NtStatus.INVALID_DEVICE_REQUEST, self.backend.commit_adl, *which)
        if state != "unmapping":
            self.refused(NtStatus.INVALID_DEVICE_REQUEST, self.backend.release_adl, *which)
        else:
            self.refused(NtStatus.INVALID_HANDLE, self.backend.free_adl, *which)

    # ---- save areas ------------------------------------------------------------

    @rule(pick=PICK, pages=st.sampled_from([1, 16, 100]))
    def reserve_a_save_area(self, pick: int, pages: int) -> None:
        adapter = self.pick(pick, self.adapters).handle
        if adapter in self.save_areas:
            self.refused(
                NtStatus.INVALID_PARAMETER, self.backend.save_areas.reserve, adapter, 0, PAGE_SIZE
            )
            return
        size = pages * PAGE_SIZE
        if len(self.backend.objects) == self.backend.quotas.objects:
            self.refused(
                NtStatus.INSUFFICIENT_RESOURCES, self.backend.save_areas.reserve, adapter, 0, size
            )
            return
        self.backend.save_areas.reserve(adapter, 0, size)
        self.save_areas[adapter] = Saved(size)

    @precondition(lambda self: self.save_areas)
    @rule(pick=PICK, part=PICK, prefer=st.booleans(), generous=st.booleans())
    def pin(self, pick: int, part: int, prefer: bool, generous: bool) -> None:
        adapter, area = self.pick(pick, list(self.save_areas.items()))
        size = (part % (area.size // PAGE_SIZE) + 1) * PAGE_SIZE
        if area.pinned:
            self.refused(NtStatus.RESOURCE_IN_USE, self.backend.save_areas.pin, adapter, 0, size, 0)
            return
        adl = self.call(
            lambda: self.backend.save_areas.pin(adapter, 0, size, int(prefer)), generous
        )
        if adl is None:
            return
        assert sum(mapping.size for mapping in adl.mappings) == size
        opening = adl.opening
        for call, args in (
            (self.backend.close, (opening.handle,)),
            (self.backend.allocate_adl, (opening.handle, 0, PAGE_SIZE, 0)),
            (self.backend.destroy, (opening.target.handle, opening.handle)),
            (self.backend.map, (opening.target.handle, 0, 0, 1)),
        ):
            self.refused(NtStatus.INVALID_HANDLE, call, *args)
        self.world.map_all(adl)
        self.backend.commit_adl(opening.handle, adl.handle)
        area.pinned = adl

    @rule(pick=PICK)
    def unpin(self, pick: int) -> None:
        adapter = self.pick(pick, self.adapters)
        if not self.unpin_if_pinned(adapter):
            status = (
                NtStatus.INVALID_DEVICE_REQUEST
                if adapter.handle in self.save_areas
                else NtStatus.INVALID_PARAMETER
            )
            self.refused(status, self.backend.save_areas.unpin, adapter.handle, 0)

    # ---- exclusive access ------------------------------------------------------

    @rule(pick=PICK, mode=st.sampled_from([None, *AddressingMode]), damage=st.booleans())
    def exclusive_access(self, pick: int, mode: AddressingMode | None, damage: bool) -> None:
        adapter = self.pick(pick, self.adapters)
        exclusive = self.backend.exclusive
        lists = self.lists_of(adapter)
        if mode is AddressingMode.PHYSICAL:
            status = NtStatus.RESOURCE_IN_USE if lists else NtStatus.NOT_SUPPORTED
        elif any(state != "live" for _, state in lists):
            status = NtStatus.DEVICE_BUSY
        else:
            exclusive.begin(adapter.handle, mode)
            self.refused(
                NtStatus.INVALID_DEVICE_STATE,
                lambda: self.backend.create(mdl(adapter.handle, PAGE_SIZE)),
            )
            self.end_exclusive_access(adapter, [adl for adl, _ in lists] if damage else [], pick)
            return
        with pytest.raises(Refused, match=status.symbol):
            exclusive.begin(adapter.handle, mode)

    def end_exclusive_access(
        self, adapter: LogicalAdapter, damaged: list[AddressDescriptorList], pick: int
    ) -> None:
        """``damaged``: one of them lacks a page in the new domain."""
        if not damaged:
            self.backend.exclusive.end(adapter.handle)
            return
        page = self.pick(pick, list(self.pages(self.pick(pick, damaged))))
        kept = self.world.table.pages.pop(page)
        self.refused(NtStatus.UNSUCCESSFUL, self.backend.exclusive.end, adapter.handle)
        assert self.world.report.failures[-1][1].logical == page
        self.world.table.pages[page] = kept
        self.bugchecks.append(0xA)

    def lists_of(self, adapter: LogicalAdapter) -> list[tuple[AddressDescriptorList, str]]:
        found = [
            (adl, state)
            for held, adl, state in self.lists.values()
            if held.opening and held.opening.adapter is adapter
        ]
        area = self.save_areas.get(adapter.handle)
        return [*found, (area.pinned, "live")] if area and area.pinned else found

    # ---- the whole -----------------------------------------------------------

    @rule(pick=PICK)
    def dead_handles_stay_dead(self, pick: int) -> None:
        handle = self.pick(pick, self.dead)
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
            self.refused(NtStatus.INVALID_HANDLE, call, *args)
        for held in self.objects.values():
            self.refused(NtStatus.INVALID_HANDLE, backend.open, held.handle, handle)
            self.refused(NtStatus.INVALID_HANDLE, backend.destroy, held.handle, handle)

    @precondition(lambda self: self.lists and len(self.objects) > 1)
    @rule(pick=PICK, other=PICK)
    def a_list_belongs_to_one_adapter_object(self, pick: int, other: int) -> None:
        held, adl, _ = self.pick(pick, list(self.lists.values()))
        stranger = self.object(other)
        if stranger.opening and stranger is not held:
            self.refused(
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
        area = self.save_areas.pop(adapter.handle, None)
        pinned = area.pinned if area else None
        leaked_lists = len(lists) + (pinned is not None)
        assert self.backend.stop_adapter(adapter.handle) == (len(leaked), leaked_lists)
        self.bugchecks += ([7] if leaked_lists else []) + ([6] if leaked else [])
        if pinned:
            self.world.unmap_all(pinned)
            self.dead.append(pinned.handle)
        for held, adl, _ in lists:
            self.world.unmap_all(adl)
            self.forget_list(held, adl)
        for held in leaked:
            self.forget(held)
        self.dead.append(adapter.handle)
        self.adapters[place] = self.start()


TestBackendStates = BackendStates.TestCase
TestBackendStates.settings = settings(
    max_examples=100, stateful_step_count=50, derandomize=True, deadline=None
)
