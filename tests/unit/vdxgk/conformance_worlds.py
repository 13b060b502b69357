"""Implementations of the callbacks for the conformance vectors: the model, the raw channel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from tests.unit.vdxgk.raw_guest import RawGuest
from tests.unit.vdxgk.world import World
from vdxgk.channel import layout
from vdxgk.conformance import Answer, Call
from vdxgk.conformance.vector import OLDER
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.ddi import Bugcheck, CreatePhysicalMemoryObject, PhysicalMemoryType
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressDescriptorList
from vdxgk.memory.pages import PAGE_SHIFT, PAGE_SIZE, Range, align_down, align_up
from vdxgk.memory.ranges import RangeSet

T = TypeVar("T")
DONATIONS = 16
"""How often one call may ask for memory, as in the shim."""
HIGHEST_VISIBLE = (1 << 32) - 1
SAVE_AREA = 1 << 20
IO_SPACE = 1 << 38
"""Where a BAR might lie."""
FEATURES = frozenset({"second-adapter", "unchecked-frees"})


class FreeMemory:
    """What a guest can donate: it keeps the first 16 MiB of its RAM for itself."""

    KEPT = 16 << 20

    def __init__(self, *ram: Range) -> None:
        self._free = RangeSet()
        for item in ram:
            start = max(item.base, self.KEPT)
            self._free.add(Range(start, item.end - start))

    def take(self, size: int, alignment: int, lowest: int, highest: int) -> list[Range] | None:
        """Blocks of ``size`` bytes together, aligned ones if there are such; None if too few."""
        for step in (alignment, PAGE_SIZE):
            blocks = self._find(size, step, lowest, highest)
            if blocks is not None:
                for block in blocks:
                    self._free.remove(block)
                return blocks
        return None

    def give_back(self, blocks: Iterable[Range]) -> None:
        """Take back what ``take`` returned."""
        for block in blocks:
            self._free.add(block)

    def holds(self, item: Range) -> bool:
        """Whether all of ``item`` is here."""
        return self._free.contains(item)

    @property
    def total(self) -> int:
        """Bytes that are here."""
        return self._free.total

    def _find(self, size: int, step: int, lowest: int, highest: int) -> list[Range] | None:
        found: list[Range] = []
        for part in self._free.within(lowest, highest + 1):
            start, end = align_up(part.base, step), align_down(part.end, step)
            if start < end:
                taken = min(size, end - start)
                found.append(Range(start, taken))
                size -= taken
            if not size:
                return found
        return None


def create_structure(call: Call) -> CreatePhysicalMemoryObject:
    """The DDI's structure with the call's arguments; of the union, the member that Type names."""
    given = call.arguments
    args = CreatePhysicalMemoryObject()
    for name in ("hAdapter", "Size", "Context", "Type", "CacheType"):
        setattr(args, name, given.get(name, 0))
    members: dict[int, str] = {
        PhysicalMemoryType.MDL: "Mdl",
        PhysicalMemoryType.SECTION: "Section",
        PhysicalMemoryType.IO_SPACE: "IOSpace",
    }
    member = members.get(args.Type, "ContiguousMemory")
    for name, value in given.items():
        union, _, field = name.partition(".")
        if union == member:
            setattr(getattr(args, union), field, value)
    return args


def view_answer(
    call: Call, token: int, offset: int, size: int, cache: int, writable: bool
) -> Answer:
    """As the shim answers: the data lie where the view's start and Offset lead."""
    outputs = {
        "pMappedAddress": token,
        "Offset": call.arguments.get("Offset", 0) - offset,
        "Size": size,
    }
    return Answer(NtStatus.SUCCESS, outputs, cache=cache, writable=writable)


class ModelImplementation:
    """The backend's classes, with a guest that does what a correct shim does."""

    features = FEATURES

    def __init__(self) -> None:
        self.world = World()
        self.backend = self.world.backend
        self._memory = FreeMemory(Range(0, 2 << 30), Range(4 << 30, 4 << 30))
        self._lists: dict[int, AddressDescriptorList] = {}
        self.environment = {
            "adapter": self.world.start().handle,
            "second_adapter": self.world.start().handle,
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
        given = call.arguments

        def action() -> Answer:
            opening = self.backend.open(given["hPhysicalMemoryObject"], given["hAdapter"])
            return Answer(NtStatus.SUCCESS, {"hAdapterMemoryObject": opening.handle})

        return self._answer(action)

    def close_physical_memory_object(self, call: Call) -> Answer:
        def action() -> Answer:
            self.backend.close(call.arguments["hAdapterMemoryObject"])
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def destroy_physical_memory_object(self, call: Call) -> Answer:
        given = call.arguments

        def action() -> Answer:
            self.backend.destroy(
                given["hPhysicalMemoryObject"], given.get("hAdapterMemoryObject", 0)
            )
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def map_physical_memory(self, call: Call) -> Answer:
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
        def action() -> Answer:
            self.backend.unmap(call.arguments["pBaseAddress"])
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def allocate_adl(self, call: Call) -> Answer:
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
        given = call.arguments
        adapter, index = _save_area_of(call)

        def action() -> Answer:
            adl = self.backend.save_areas.pin(
                adapter, index, given.get("CommitSize", 0), given.get("Flags", 0)
            )
            self._pinned[index] = adl
            return self._live(adl)

        return self._answer(action)

    def unpin_frame_buffer_for_save(self, call: Call) -> Answer:
        adapter, index = _save_area_of(call)

        def action() -> Answer:
            self.backend.save_areas.unpin(adapter, index)
            adl = self._pinned.pop(index)
            self.world.unmap_all(adl)
            self.backend.release_adl(adl.opening.handle, adl.handle)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def older_callback(self, call: Call) -> Answer:
        def action() -> Answer:
            self.backend.refuse_older(call.arguments.get("hAdapter", 0), call.name)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)

    def free_adl(self, call: Call) -> Answer:
        opening, handle = call.arguments["hAdapterMemoryObject"], call.arguments["pAdl"]

        def action() -> Answer:
            adl = self.backend.free_adl(opening, handle)
            self.world.unmap_all(adl)
            self.backend.release_adl(opening, handle)
            return Answer(NtStatus.SUCCESS)

        return self._answer(action)


class RawImplementation:
    """Bytes as they go over the channel, through a real socket."""

    RAM = 6 << 30
    features = FEATURES

    def __init__(self, path: str) -> None:
        self.guest = RawGuest(path, self.RAM)
        self._memory = FreeMemory(Range(0, self.RAM))
        self._mappings: dict[int, list[tuple[int, int, int]]] = {}
        self.environment = {
            "adapter": self.guest.start(),
            "second_adapter": self.guest.start_adapter(),
            "highest_visible": HIGHEST_VISIBLE,
            "io_space": IO_SPACE,
            "save_area": SAVE_AREA,
        }
        self._save_area(layout.OP_RESERVE_SAVE_AREA, self.environment["adapter"], SAVE_AREA)
        self._pinned: dict[int, tuple[int, int]] = {}  # adapter object and list

    def close(self) -> None:
        self.guest.close()

    def _request(self, op: int, args: bytes, room: int = 0x80000) -> layout.Completion:
        for _ in range(DONATIONS):
            completion = self.guest.request(op, args, room=room)
            if completion.status != layout.NT_MORE_MEMORY:
                return completion
            wanted = layout.MemoryWanted.from_buffer_copy(completion.result)
            blocks = self._memory.take(wanted.size, wanted.alignment, wanted.lowest, wanted.highest)
            if blocks is None:
                break
            data = b"".join(struct.pack("<2Q", *block) for block in blocks)
            assert self.guest.request(layout.OP_DONATE, data=data).status == NtStatus.SUCCESS
        return layout.Completion(status=NtStatus.NO_MEMORY)

    def _bugchecks(self) -> list[tuple[int, int]]:
        """The events that are there: the backend puts them before it completes the request."""
        found = []
        ring = self.guest.rings[layout.RING_EVENTS]
        while ring.consumer != ring.producer:
            event = self.guest.event()
            if event.type == layout.EVENT_BUGCHECK:
                found.append((int(event.code), int(event.parameters[0])))
        return found

    def _simple(self, op: int, *words: int) -> Answer:
        completion = self._request(op, struct.pack(f"<{len(words)}Q", *words), room=0)
        return Answer(completion.status, bugchecks=self._bugchecks())

    def create_physical_memory_object(self, call: Call) -> Answer:
        completion = self._request(layout.OP_CREATE_OBJECT, bytes(create_structure(call)))
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        result = layout.CreateResult.from_buffer_copy(completion.result)
        words = self.guest.words(2 * result.run_count)
        handles = {
            "hPhysicalMemoryObject": result.object,
            "hAdapterMemoryObject": result.adapter_object,
        }
        return Answer(
            completion.status,
            handles,
            runs=list(zip(words[::2], words[1::2], strict=True)),
            zeroed=bool(result.zero),
            bugchecks=self._bugchecks(),
        )

    def open_physical_memory_object(self, call: Call) -> Answer:
        given = call.arguments
        args = struct.pack("<3Q", given["hPhysicalMemoryObject"], given["hAdapter"], 0)
        completion = self._request(layout.OP_OPEN_OBJECT, args, room=0)
        outputs = {}
        if completion.status == NtStatus.SUCCESS:
            result = layout.OpenResult.from_buffer_copy(completion.result)
            outputs = {"hAdapterMemoryObject": result.adapter_object}
        return Answer(completion.status, outputs, bugchecks=self._bugchecks())

    def close_physical_memory_object(self, call: Call) -> Answer:
        return self._simple(layout.OP_CLOSE_OBJECT, call.arguments["hAdapterMemoryObject"])

    def destroy_physical_memory_object(self, call: Call) -> Answer:
        given = call.arguments
        return self._simple(
            layout.OP_DESTROY_OBJECT,
            given["hPhysicalMemoryObject"],
            given.get("hAdapterMemoryObject", 0),
        )

    def map_physical_memory(self, call: Call) -> Answer:
        given = call.arguments
        words = (given.get("AccessMode", 0), given.get("Offset", 0), given.get("Size", 0), 0)
        args = struct.pack("<5Q", given["hPhysicalMemoryObject"], *words)
        completion = self._request(layout.OP_MAP_OBJECT, args, room=0)
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        result = layout.MapResult.from_buffer_copy(completion.result)
        return view_answer(
            call,
            result.token,
            result.offset,
            result.size,
            result.cache_type,
            bool(result.writable),
        )

    def unmap_physical_memory(self, call: Call) -> Answer:
        return self._simple(layout.OP_UNMAP_OBJECT, call.arguments["pBaseAddress"])

    def allocate_adl(self, call: Call) -> Answer:
        given = call.arguments
        opening = given.get("hAdapterMemoryObject", 0)
        words = (opening, given.get("Offset", 0), given.get("Size", 0), given.get("Flags", 0), 0)
        completion = self._request(layout.OP_ALLOCATE_ADL, struct.pack("<5Q", *words))
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        result = layout.AllocateAdlResult.from_buffer_copy(completion.result)
        return self._live(opening, result)

    def _live(self, opening: int, result: layout.AllocateAdlResult) -> Answer:
        listed = self.guest.words(3 * result.mapping_count)
        mappings = list(zip(listed[::3], listed[1::3], listed[2::3], strict=True))
        if mappings[0][1] < IO_SPACE:
            self.guest.map(mappings)
        else:
            for logical, _, size in mappings:
                self.guest.client.dma_map(logical, size)  # a BAR has no descriptor
        status = self.guest.commit(opening, result.adl)
        assert status == NtStatus.SUCCESS
        self._mappings[result.adl] = mappings
        pages = [
            (logical + into) >> PAGE_SHIFT
            for logical, _, size in mappings
            for into in range(0, size, PAGE_SIZE)
        ]
        assert len(pages) == result.page_count
        return Answer(
            status,
            {"pAdl": result.adl},
            pages=pages,
            contiguous=bool(result.contiguous),
            bugchecks=self._bugchecks(),
        )

    def free_adl(self, call: Call) -> Answer:
        words = call.arguments["hAdapterMemoryObject"], call.arguments["pAdl"]
        answer = self._simple(layout.OP_FREE_ADL, *words)
        return self._release(*words) if answer.succeeded else answer

    def _release(self, opening: int, adl: int) -> Answer:
        for logical, _, size in self._mappings.pop(adl):
            self.guest.client.dma_unmap(logical, size)
        return self._simple(layout.OP_RELEASE_ADL, opening, adl)

    def _save_area(
        self, op: int, adapter: int, size: int = 0, index: int = 0, flags: int = 0
    ) -> layout.Completion:
        args = layout.SaveAreaArgs(adapter, size, index, flags)
        return self._request(op, bytes(args))

    def pin_frame_buffer_for_save2(self, call: Call) -> Answer:
        given = call.arguments
        names = ("hAdapter", "CommitSize", "PhysicalAdapterIndex", "Flags")
        wanted = [given.get(name, 0) for name in names]
        completion = self._save_area(layout.OP_PIN_SAVE_AREA, *wanted)
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        result = layout.PinResult.from_buffer_copy(completion.result)
        self._pinned[wanted[2]] = (result.adapter_object, result.list.adl)
        return self._live(result.adapter_object, result.list)

    def unpin_frame_buffer_for_save(self, call: Call) -> Answer:
        adapter, index = _save_area_of(call)
        completion = self._save_area(layout.OP_UNPIN_SAVE_AREA, adapter, index=index)
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        return self._release(*self._pinned.pop(index))

    def older_callback(self, call: Call) -> Answer:
        args = layout.OlderArgs(call.arguments.get("hAdapter", 0), OLDER.index(call.name))
        completion = self._request(layout.OP_OLDER_CALLBACK, bytes(args), room=0)
        return Answer(completion.status, bugchecks=self._bugchecks())


def _save_area_of(call: Call) -> tuple[int, int]:
    return call.arguments.get("hAdapter", 0), call.arguments.get("PhysicalAdapterIndex", 0)
