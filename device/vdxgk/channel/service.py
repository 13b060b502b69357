"""Requests in, backend calls, completions out.

Everything that a guest wrote is copied once, then checked; whatever it holds
gets an NTSTATUS.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from vdxgk.channel import layout
from vdxgk.memory import ddi
from vdxgk.memory.backend import Backend, StartRequest
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.ddi import IommuCaps
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import AddressDescriptorList, AddressingMode, LogicalAdapter
from vdxgk.memory.pages import Range

S = TypeVar("S", bound=ctypes.LittleEndianStructure)
Answer = tuple[bytes, int]
"""A result and the number of list entries in the bulk data."""

OP_NAMES = {
    getattr(layout, name): name.removeprefix("OP_")
    for name in dir(layout)
    if name.startswith("OP_")
}
_MODES = {
    layout.MODE_AUTO: None,
    layout.MODE_PHYSICAL: AddressingMode.PHYSICAL,
    layout.MODE_LOGICAL: AddressingMode.LOGICAL,
}
_OLDER = (
    *("AllocateContiguousMemory", "FreeContiguousMemory", "AllocatePagesForMdl"),
    *("FreePagesFromMdl", "PinFrameBufferForSave", "MapFrameBufferPointer"),
    *("UnmapFrameBufferPointer", "MapMdlToIoMmu", "UnmapMdlFromIoMmu"),
)
"""By OLDER_*."""
_NOTHING: Answer = (b"", 0)

# As layout.Request and layout.Completion, which take three times as long; test_layout compares.
REQUEST = struct.Struct("<IIQII104s")
COMPLETION = struct.Struct("<QII112s")


class BulkSlice:
    """The part of the bulk data that one request names."""

    def __init__(self, bulk: memoryview, offset: int, size: int) -> None:
        if offset + size > len(bulk):
            raise invalid(f"bulk data {offset:#x}+{size:#x} is outside of {len(bulk):#x} bytes")
        self._view = bulk[offset : offset + size]

    def ranges(self) -> list[Range]:
        """The list of struct vdxgk_range that the guest put there, copied."""
        words = self._words(2)
        return [Range(base, size) for base, size in zip(words[::2], words[1::2], strict=True)]

    def _words(self, per_entry: int) -> Sequence[int]:
        data = bytes(self._view)
        if len(data) % (8 * per_entry):
            raise invalid(f"a list of {8 * per_entry}-byte entries has {len(data)} bytes")
        return struct.unpack(f"<{len(data) // 8}Q", data)

    def room(self, per_entry: int) -> int:
        """How many entries of ``per_entry`` words fit."""
        return len(self._view) // (8 * per_entry)

    def put(self, entries: Sequence[Iterable[int]], per_entry: int) -> int:
        """Write as many entries as fit; returns how many."""
        count = min(len(entries), self.room(per_entry))
        words = itertools.chain.from_iterable(entries[:count])
        struct.pack_into(f"<{count * per_entry}Q", self._view, 0, *words)
        return count


class RequestService:
    """Decodes requests, calls the backend, encodes completions.

    ``mutate`` sees every successful create's handles before the guest does:
    the hook of fault injection.  ``violations`` counts the accesses within
    exclusive access, ``starves`` tells for which op there is no memory,
    ``takes`` whether this channel takes requests: of linked functions one does.
    """

    def __init__(
        self,
        backend: Backend,
        bulk: memoryview,
        log: FilteringBoundLogger,
        mutate: Callable[[int], int] = lambda handle: handle,
        violations: Callable[[], int] = lambda: 0,
        starves: Callable[[int], bool] = lambda op: False,
        takes: Callable[[], bool] = lambda: True,
    ) -> None:
        self._backend = backend
        self._bulk = bulk
        self._mutate = mutate
        self._violations = violations
        self._starves = starves
        self._takes = takes
        self._log = log
        self._ops: dict[int, Callable[[bytes, BulkSlice], Answer]] = {
            layout.OP_START_ADAPTER: self._start_adapter,
            layout.OP_STOP_ADAPTER: self._stop_adapter,
            layout.OP_DONATE: self._donate,
            layout.OP_RECLAIM: self._reclaim,
            layout.OP_CREATE_OBJECT: self._create_object,
            layout.OP_DESTROY_OBJECT: self._destroy_object,
            layout.OP_OPEN_OBJECT: self._open_object,
            layout.OP_CLOSE_OBJECT: self._close_object,
            layout.OP_MAP_OBJECT: self._map_object,
            layout.OP_UNMAP_OBJECT: self._unmap_object,
            layout.OP_ALLOCATE_ADL: self._allocate_adl,
            layout.OP_COMMIT_ADL: self._commit_adl,
            layout.OP_FREE_ADL: self._free_adl,
            layout.OP_RELEASE_ADL: self._release_adl,
            layout.OP_QUERY_LIST: self._query_list,
            layout.OP_RESERVE_SAVE_AREA: self._reserve_save_area,
            layout.OP_PIN_SAVE_AREA: self._pin_save_area,
            layout.OP_UNPIN_SAVE_AREA: self._unpin_save_area,
            layout.OP_OLDER_CALLBACK: self._older_callback,
            layout.OP_BEGIN_EXCLUSIVE: self._begin_exclusive,
            layout.OP_END_EXCLUSIVE: self._end_exclusive,
        }

    def handle(self, entry: bytes, crowded: bool = False) -> bytes:
        """One request's bytes in, its completion's bytes out.  Never raises.

        ``crowded``: too many wait, and this one is refused.
        """
        op, flags, cookie, offset, size, args = REQUEST.unpack(entry)
        name = OP_NAMES.get(op) or str(op)
        status = 0
        result, count = _NOTHING
        try:
            handler = self._ops.get(op)
            if handler is None or flags or not self._takes():
                raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"op {op}, flags {flags:#x}")
            if crowded:
                raise Refused(NtStatus.DEVICE_BUSY, "too many requests wait")
            if self._starves(op):
                raise Refused(NtStatus.INSUFFICIENT_RESOURCES, "no memory, as was asked for")
            bulk = BulkSlice(self._bulk, offset, size)
            with self._backend.lock:
                result, count = handler(args, bulk)
        except MoreMemory as more:
            status = more.status
            result = bytes(
                layout.MemoryWanted(more.size, more.alignment, more.lowest, more.highest)
            )
            self._log.debug("more memory wanted", op=name, reason=more.reason)
        except Refused as refusal:
            status = refusal.status
            self._log.info("refused", op=name, status=refusal.status.symbol, reason=refusal.reason)
        except Exception:
            # A bug of ours must not cost the guest its device.
            status = NtStatus.INTERNAL_ERROR
            self._log.exception("internal error", op=name)
        else:
            self._log.debug("done", op=name)
        return COMPLETION.pack(cookie, status, count, result)

    # ---- adapters ----------------------------------------------------------

    def _start_adapter(self, args: bytes, bulk: BulkSlice) -> Answer:
        start = _parse(layout.StartArgs, args)
        if start.mode not in _MODES:
            raise invalid(f"mode {start.mode}")
        adapter = self._backend.start_adapter(
            StartRequest(
                highest_visible=start.highest_visible,
                iommu_caps=IommuCaps(start.iommu_caps & sum(IommuCaps)),
                translated=start.iommu == layout.IOMMU_TRANSLATED,
                highest_ram=start.highest_ram,
                aperture=(start.aperture_start, start.aperture_end),
                probe=(start.probe_gpa, start.probe_value),
                mode=_MODES[start.mode],
                reserved=bulk.ranges(),
            )
        )
        self._log.info(
            "adapter started",
            mode=adapter.mode.name.lower(),
            highest_visible=f"{start.highest_visible:#x}",
            highest_ram=f"{start.highest_ram:#x}",
        )
        return bytes(_start_result(adapter)), 0

    def _stop_adapter(self, args: bytes, bulk: BulkSlice) -> Answer:
        objects, lists = self._backend.stop_adapter(_parse(layout.StopArgs, args).adapter)
        self._log.info("adapter stopped", leaked_objects=objects, leaked_lists=lists)
        return bytes(layout.StopResult(objects, lists)), 0

    def _begin_exclusive(self, args: bytes, bulk: BulkSlice) -> Answer:
        wanted = _parse(layout.ExclusiveArgs, args)
        if wanted.mode not in _MODES:
            raise invalid(f"mode {wanted.mode}")
        self._backend.exclusive.begin(wanted.adapter, _MODES[wanted.mode])
        return _NOTHING

    def _end_exclusive(self, args: bytes, bulk: BulkSlice) -> Answer:
        adapter = self._backend.exclusive.end(_parse(layout.ExclusiveArgs, args).adapter)
        result = layout.EndExclusiveResult(_start_result(adapter), self._violations())
        return bytes(result), 0

    # ---- memory ------------------------------------------------------------

    def _donate(self, args: bytes, bulk: BulkSlice) -> Answer:
        self._backend.donate(bulk.ranges())
        return _NOTHING

    def _reclaim(self, args: bytes, bulk: BulkSlice) -> Answer:
        everything = bool(_parse(layout.ReclaimArgs, args).all)
        blocks = self._backend.reclaim(everything, bulk.room(2))
        return b"", bulk.put(blocks, 2)

    # ---- objects -----------------------------------------------------------

    def _create_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        arguments = _parse(ddi.CreatePhysicalMemoryObject, args)
        target, zero = self._backend.create(arguments)
        opening = target.opening
        result = layout.CreateResult(
            object=self._mutate(target.handle),
            adapter_object=opening.handle if opening else 0,
            size=target.size,
            run_count=len(target.runs),
            zero=zero,
        )
        return bytes(result), bulk.put(target.runs, 2)

    def _destroy_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        arguments = _parse(ddi.DestroyPhysicalMemoryObject, args)
        self._backend.destroy(arguments.hPhysicalMemoryObject, arguments.hAdapterMemoryObject)
        return _NOTHING

    def _open_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        arguments = _parse(ddi.OpenPhysicalMemoryObject, args)
        opening = self._backend.open(arguments.hPhysicalMemoryObject, arguments.hAdapter)
        return bytes(layout.OpenResult(opening.handle)), 0

    def _close_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        self._backend.close(_parse(ddi.ClosePhysicalMemoryObject, args).hAdapterMemoryObject)
        return _NOTHING

    def _map_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        wanted = _parse(ddi.MapPhysicalMemory, args)
        mapping, token = self._backend.map(
            wanted.hPhysicalMemoryObject, wanted.AccessMode, wanted.Offset, wanted.Size
        )
        result = layout.MapResult(
            token=token,
            offset=mapping.offset,
            size=mapping.size,
            cache_type=mapping.target.cache,
            writable=mapping.writable,
            run_count=len(mapping.target.runs),
        )
        return bytes(result), 0

    def _unmap_object(self, args: bytes, bulk: BulkSlice) -> Answer:
        self._backend.unmap(_parse(layout.UnmapArgs, args).token)
        return _NOTHING

    # ---- lists -------------------------------------------------------------

    def _allocate_adl(self, args: bytes, bulk: BulkSlice) -> Answer:
        wanted = _parse(ddi.AllocateAdl, args)
        adl = self._backend.allocate_adl(
            wanted.hAdapterMemoryObject, wanted.Offset, wanted.Size, wanted.Flags
        )
        return bytes(_list_result(adl)), _put_mappings(bulk, adl, 0)

    def _commit_adl(self, args: bytes, bulk: BulkSlice) -> Answer:
        which = _parse(layout.AdlArgs, args)
        self._backend.commit_adl(which.adapter_object, which.adl)
        return _NOTHING

    def _free_adl(self, args: bytes, bulk: BulkSlice) -> Answer:
        which = _parse(layout.AdlArgs, args)
        self._backend.free_adl(which.adapter_object, which.adl)
        return _NOTHING

    def _release_adl(self, args: bytes, bulk: BulkSlice) -> Answer:
        which = _parse(layout.AdlArgs, args)
        self._backend.release_adl(which.adapter_object, which.adl)
        return _NOTHING

    # ---- save areas, and what is no more -------------------------------------

    def _reserve_save_area(self, args: bytes, bulk: BulkSlice) -> Answer:
        wanted = _parse(layout.SaveAreaArgs, args)
        self._backend.save_areas.reserve(wanted.adapter, wanted.physical_adapter, wanted.size)
        return _NOTHING

    def _pin_save_area(self, args: bytes, bulk: BulkSlice) -> Answer:
        wanted = _parse(layout.SaveAreaArgs, args)
        adl = self._backend.save_areas.pin(
            wanted.adapter, wanted.physical_adapter, wanted.size, wanted.flags
        )
        target = adl.opening.target
        result = layout.PinResult(_list_result(adl), target.handle, adl.opening.handle, target.size)
        return bytes(result), _put_mappings(bulk, adl, 0)

    def _unpin_save_area(self, args: bytes, bulk: BulkSlice) -> Answer:
        which = _parse(layout.SaveAreaArgs, args)
        self._backend.save_areas.unpin(which.adapter, which.physical_adapter)
        return _NOTHING

    def _older_callback(self, args: bytes, bulk: BulkSlice) -> Answer:
        called = _parse(layout.OlderArgs, args)
        if called.callback >= len(_OLDER):
            raise invalid(f"older callback {called.callback}")
        self._backend.refuse_older(called.adapter, _OLDER[called.callback])
        return _NOTHING

    def _query_list(self, args: bytes, bulk: BulkSlice) -> Answer:
        query = _parse(layout.QueryListArgs, args)
        if query.handle in self._backend.lists:
            return b"", _put_mappings(bulk, self._backend.lists.get(query.handle), query.first)
        return b"", bulk.put(self._backend.objects.get(query.handle).runs[query.first :], 2)


def _parse(kind: type[S], args: bytes) -> S:
    return kind.from_buffer_copy(args)


def _start_result(adapter: LogicalAdapter) -> layout.StartResult:
    space = adapter.space
    return layout.StartResult(
        adapter=adapter.handle,
        mode=adapter.mode,
        logical_start=space.start if space else 0,
        logical_end=space.end if space else 0,
    )


def _list_result(adl: AddressDescriptorList) -> layout.AllocateAdlResult:
    return layout.AllocateAdlResult(
        adl=adl.handle,
        page_count=adl.size >> 12,
        contiguous=adl.contiguous,
        mapping_count=len(adl.mappings),
        map_needed=adl.opening.adapter.translated,
        run_count=len(adl.opening.target.runs),
    )


def _put_mappings(bulk: BulkSlice, adl: AddressDescriptorList, first: int) -> int:
    return bulk.put(
        [(m.logical, m.physical, m.size) for m in adl.mappings[first : first + bulk.room(3)]], 3
    )
