"""The callbacks as bytes on the channel of an adapter that is served at a socket."""

from __future__ import annotations

import struct

from vdxgk.channel import layout
from vdxgk.conformance.implementation import Answer, Call
from vdxgk.conformance.vector import OLDER
from vdxgk.conformance.worlds.guest_side import (
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
from vdxgk.conformance.worlds.raw_guest import RawGuest
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import PAGE_SHIFT, PAGE_SIZE, Range


class RawImplementation:
    """Bytes as they go over the channel, through a real socket."""

    RAM = 6 << 30

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
        physical = self.guest.start_physical()
        self.features = FEATURES if physical else FEATURES - {"physical-addressing"}
        self.environment["physical_adapter"] = physical

    def close(self) -> None:
        """Hang up."""
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
        """See Implementation."""
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
        """See Implementation."""
        given = call.arguments
        args = struct.pack("<3Q", given["hPhysicalMemoryObject"], given["hAdapter"], 0)
        completion = self._request(layout.OP_OPEN_OBJECT, args, room=0)
        outputs = {}
        if completion.status == NtStatus.SUCCESS:
            result = layout.OpenResult.from_buffer_copy(completion.result)
            outputs = {"hAdapterMemoryObject": result.adapter_object}
        return Answer(completion.status, outputs, bugchecks=self._bugchecks())

    def close_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""
        return self._simple(layout.OP_CLOSE_OBJECT, call.arguments["hAdapterMemoryObject"])

    def destroy_physical_memory_object(self, call: Call) -> Answer:
        """See Implementation."""
        given = call.arguments
        return self._simple(
            layout.OP_DESTROY_OBJECT,
            given["hPhysicalMemoryObject"],
            given.get("hAdapterMemoryObject", 0),
        )

    def map_physical_memory(self, call: Call) -> Answer:
        """See Implementation."""
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
        """See Implementation."""
        return self._simple(layout.OP_UNMAP_OBJECT, call.arguments["pBaseAddress"])

    def allocate_adl(self, call: Call) -> Answer:
        """See Implementation."""
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
        """See Implementation."""
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
        """See Implementation."""
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
        """See Implementation."""
        adapter, index = save_area_of(call)
        completion = self._save_area(layout.OP_UNPIN_SAVE_AREA, adapter, index=index)
        if completion.status != NtStatus.SUCCESS:
            return Answer(completion.status, bugchecks=self._bugchecks())
        return self._release(*self._pinned.pop(index))

    def older_callback(self, call: Call) -> Answer:
        """See Implementation."""
        args = layout.OlderArgs(call.arguments.get("hAdapter", 0), OLDER.index(call.name))
        completion = self._request(layout.OP_OLDER_CALLBACK, bytes(args), room=0)
        return Answer(completion.status, bugchecks=self._bugchecks())
