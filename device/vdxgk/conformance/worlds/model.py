"""The backend's classes, with a guest that does what a correct shim does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from vdxgk.conformance.implementation import Answer, Call
from vdxgk.conformance.worlds.guest_side import (
    DMA_BITS,
    DONATIONS,
    FEATURES,
    HIGHEST_VISIBLE,
    IO_SPACE,
    SAVE_AREA,
    FreeMemory,
    create_structure,
    save_area_of,
    view_answer,
)
from vdxgk.conformance.worlds.world import World
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.ddi import Bugcheck
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList, AddressingMode
from vdxgk.memory.pages import PAGE_SHIFT, PAGE_SIZE, Range

T = TypeVar("T")


class ModelImplementation:
    """The backend's classes, with a guest that does what a correct shim does."""

    features = FEATURES

    def __init__(self) -> None:
        self.world = World(dma_bits=DMA_BITS)
        self.backend = self.world.backend
        self._memory = FreeMemory(Range(0, 2 << 30), Range(4 << 30, 4 << 30))
        self._lists: dict[int, AddressDescriptorList] = {}
        self.environment = {
            "adapter": self.world.start().handle,
            "second_adapter": self.world.start().handle,
            "physical_adapter": self.world.start(
                mode=AddressingMode.PHYSICAL,
                translated=False,
                highest_visible=(1 << DMA_BITS) - 1,
            ).handle,
            "highest_visible": HIGHEST_VISIBLE,
            "io_space": IO_SPACE,
            "save_area": SAVE_AREA,
        }
        self.backend.save_areas.reserve(self.environment["adapter"], 0, SAVE_AREA)
        self._pinned: dict[int, AddressDescriptorList] = {}

    def _answer(self, action: Callable[[], Answer]) -> Answer:
        """Carry out ``action``, with donations; bugchecks are those that it reported."""
        reported = self.world.report.bugchecks
        before = len(reported)
        try:
            answer = self._with_donations(action)
        except Refused as refusal:
            answer = Answer(refusal.status)
        bugchecks = [(int(Bugcheck.VIDEO_DXGKRNL_SYSMM_FATAL_ERROR), p) for p in reported[before:]]
        return replace(answer, bugchecks=bugchecks)

    def _with_donations(self, action: Callable[[], T]) -> T:
        for _ in range(DONATIONS):
            try:
                return action()
            except MoreMemory as more:
                blocks = self._memory.take(more.size, more.alignment, more.lowest, more.highest)
                if blocks is None:
                    break
                self.backend.donate(blocks)
        raise Refused(NtStatus.NO_MEMORY, "the guest has none to give")

    def create_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""
        args = create_structure(call)

        def action() -> Answer:
            target, zero = self.backend.create(args)
            opening = target.opening
            handles = {
                "hPhysicalMemoryObject": target.handle,
                "hAdapterMemoryObject": opening.handle if opening else 0,
            }
            return Answer(NtStatus.SUCCESS, handles, runs=list(target.runs), zeroed=zero)

        return self._answer(action)

    def open_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments

        def action() -> Answer:
            opening = self.backend.open(given["hPhysicalMemoryObject"], given["hAdapter"])
            return Answer(NtStatus.SUCCESS, {"hAdapterMemoryObject": opening.handle})

        return self._answer(action)

    def close_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""

        def action() -> Answer:
            self.backend.close(call.arguments["hAdapterMemoryObject"])
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def destroy_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments

        def action() -> Answer:
            self.backend.destroy(
                given["hPhysicalMemoryObject"], given.get("hAdapterMemoryObject", 0)
            )
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def map_physical_memory(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments

        def action() -> Answer:
            mapping, token = self.backend.map(
                given["hPhysicalMemoryObject"],
                given.get("AccessMode", 0),
                given.get("Offset", 0),
                given.get("Size", 0),
            )
            return view_answer(
                call, token, mapping.offset, mapping.size, mapping.target.cache, mapping.writable
            )

        return self._answer(action)

    def unmap_physical_memory(self, call: Call) -> Answer:
        """See Implementation."""

        def action() -> Answer:
            self.backend.unmap(call.arguments["pBaseAddress"])
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def allocate_adl(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments
        opening = given.get("hAdapterMemoryObject", 0)

        def action() -> Answer:
            adl = self.backend.allocate_adl(
                opening, given.get("Offset", 0), given.get("Size", 0), given.get("Flags", 0)
            )
            return self._live(adl)

        return self._answer(action)

    def _live(self, adl: AddressDescriptorList) -> Answer:
        for mapping in adl.mappings:
            if mapping.physical < IO_SPACE:
                self.world.map(mapping)
            else:
                self.world.table.map(mapping.logical, mapping.size, None, 0)
        self.backend.commit_adl(adl.opening.handle, adl.handle)
        self._lists[adl.handle] = adl
        pages = [
            (mapping.logical + into) >> PAGE_SHIFT
            for mapping in adl.mappings
            for into in range(0, mapping.size, PAGE_SIZE)
        ]
        return Answer(
            NtStatus.SUCCESS, {"pAdl": adl.handle}, pages=pages, contiguous=adl.contiguous
        )

    def pin_frame_buffer_for_save2(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments
        adapter, index = save_area_of(call)

        def action() -> Answer:
            adl = self.backend.save_areas.pin(
                adapter, index, given.get("CommitSize", 0), given.get("Flags", 0)
            )
            self._pinned[index] = adl
            return self._live(adl)

        return self._answer(action)

    def unpin_frame_buffer_for_save(self, call: Call) -> Answer:
        """See Implementation."""
        adapter, index = save_area_of(call)

        def action() -> Answer:
            self.backend.save_areas.unpin(adapter, index)
            adl = self._pinned.pop(index)
            self.world.unmap_all(adl)
            self.backend.release_adl(adl.opening.handle, adl.handle)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def older_callback(self, call: Call) -> Answer:
        """See Implementation."""

        def action() -> Answer:
            self.backend.refuse_older(call.arguments.get("hAdapter", 0), call.name)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def free_adl(self, call: Call) -> Answer:
        """See Implementation."""
        opening, handle = call.arguments["hAdapterMemoryObject"], call.arguments["pAdl"]

        def action() -> Answer:
            adl = self.backend.free_adl(opening, handle)
            self.world.unmap_all(adl)
            self.backend.release_adl(opening, handle)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)
