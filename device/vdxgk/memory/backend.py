"""The calls of the physical-memory family, as Dxgkrnl answers them.

One object of this class is one guest's Dxgkrnl.  Callers on several threads
(the channel, the control door) hold its ``lock`` around each call; no call
waits for the guest.  A refusal raises Refused and changes nothing.

Rules are tagged with their basis: [D] documented, [I] inferred by us.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from vdxgk.memory import creation, remapping, starting
from vdxgk.memory.ddi import (
    AccessMode,
    Bugcheck,
    CacheType,
    CreatePhysicalMemoryObject,
    PhysicalMemoryType,
    SysmmFatalError,
)
from vdxgk.memory.exclusive import ExclusiveAccess
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.handles import HandleTable
from vdxgk.memory.limits import Pieces, Quotas
from vdxgk.memory.lists import Lists
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import (
    AdapterObject,
    AddressDescriptorList,
    Addressing,
    AddressingMode,
    CpuMapping,
    LogicalAdapter,
    PhysicalMemoryObject,
    WantedMapping,
)
from vdxgk.memory.pages import PAGE_SIZE, Range, align_down, align_up
from vdxgk.memory.pool import GuestMemoryPool
from vdxgk.memory.reporter import Reporter
from vdxgk.memory.save_areas import SaveAreas
from vdxgk.memory.starting import StartRequest

__all__ = ["Backend", "Quotas", "Reporter", "StartRequest"]


class Backend:
    """Dxgkrnl's policy half for one guest.

    ``table`` is what the hypervisor announced, ``ram`` the guest's memory
    layout, ``dma_bits`` the width of the addresses that the device can emit.
    """

    def __init__(
        self,
        table: remapping.Translations,
        ram: GuestRam,
        reporter: Reporter,
        *,
        dma_bits: int,
        quotas: Quotas | None = None,
        seed: int = 0,
    ) -> None:
        self.tables = [table]
        """One for each linked function, the leading one's first."""
        self.ram = ram
        self.reporter = reporter
        self.dma_bits = dma_bits
        self.quotas = quotas or Quotas()
        self.seed = seed
        self.lock = threading.RLock()
        self._forget()

    def link(self, table: remapping.Translations, dma_bits: int) -> None:
        """One more function reaches the adapter's memory.

        [D] Linked adapters report the lowest of their highest visible addresses.
        """
        self.tables.append(table)
        self.dma_bits = min(self.dma_bits, dma_bits)

    def _forget(self) -> None:
        self.pool = GuestMemoryPool(
            self.quotas.donated_bytes, self.quotas.donated_blocks, self.seed
        )
        self.pieces = Pieces(self.quotas.pieces)
        self.adapters: HandleTable[LogicalAdapter] = HandleTable("adapter", 0xA1, 16)
        self._requests: dict[int, StartRequest] = {}
        self.objects: HandleTable[PhysicalMemoryObject] = HandleTable(
            "physical memory object", 0xA2, self.quotas.objects
        )
        self.openings: HandleTable[AdapterObject] = HandleTable(
            "adapter memory object", 0xA3, self.quotas.objects
        )
        self.cpu_mappings: HandleTable[CpuMapping] = HandleTable(
            "CPU mapping", 0xA5, self.quotas.cpu_mappings
        )
        self.last_destroyed: int | None = None
        """The handle of the object destroyed last: stale, for tests of staleness."""
        self._lists = Lists(
            self.openings,
            self.tables,
            self.ram,
            self.reporter,
            self._back,
            self.quotas,
            self.pieces,
        )
        self.exclusive = ExclusiveAccess(
            self.adapters, self._lists, self.reporter, self._address, self._bugcheck
        )
        self.save_areas = SaveAreas(self.adapters, self._lists, self._make_section)
        self.committed = 0
        """Bytes of all sections, backed or not."""

    @property
    def lists(self) -> HandleTable[AddressDescriptorList]:
        """The lists that live."""
        return self._lists.handles

    @property
    def last_freed(self) -> list[WantedMapping]:
        """The mappings of the list released last: stale, for tests of staleness."""
        return self._lists.last_freed

    def reset(self) -> None:
        """Forget everything: the driver or the machine starts anew."""
        self._forget()

    # ---- adapters ----------------------------------------------------------

    def start_adapter(self, request: StartRequest) -> LogicalAdapter:
        """Decide whether and how an adapter starts: see ``starting.start``."""
        adapter = starting.start(request, self.ram, self.dma_bits)
        adapter.functions = len(self.tables)
        adapter.handle = self.adapters.insert(adapter)
        self._requests[adapter.handle] = request
        return adapter

    def _address(self, adapter: LogicalAdapter, mode: AddressingMode) -> Addressing:
        return starting.address(self._requests[adapter.handle], self.dma_bits, mode)

    def stop_adapter(self, handle: int) -> tuple[int, int]:
        """Stop an adapter; returns how many objects and lists it leaked, now forgotten.

        [D] Leaked adapter objects and lists are bugchecks 0x1E4, 6 and 7.
        """
        adapter = self.adapters.remove(handle)
        del self._requests[handle]
        if adapter.exclusive is not None:
            self.reporter.exclusive_access(False)
        openings = [opening for opening in self.openings if opening.adapter is adapter]
        leaked_lists = sum(len(opening.lists) for opening in openings)
        leaked_objects = sum(not opening.target.system for opening in openings)
        if leaked_lists:
            self._bugcheck(SysmmFatalError.ADL_LEAKED, f"{leaked_lists} lists leaked at stop")
        if leaked_objects:
            self._bugcheck(
                SysmmFatalError.ADAPTER_OBJECT_LEAKED, f"{leaked_objects} objects leaked at stop"
            )
        for opening in openings:
            for adl in list(opening.lists.values()):
                self._lists.forget(adl)
            self._drop_opening(opening)
            self._forget_object(opening.target)
        leaked = {opening.target.handle for opening in openings}
        self.cpu_mappings.remove_if(lambda mapping: mapping.target.handle in leaked)
        return leaked_objects, leaked_lists

    # ---- donated memory ----------------------------------------------------

    def donate(self, blocks: Sequence[Range]) -> None:
        """Take guest memory for objects; all of ``blocks`` or none."""
        for block in blocks:
            if self.ram.known and not self.ram.contains(*block):
                raise invalid(f"donated block {block.base:#x}+{block.size:#x} is not guest RAM")
        self.pool.donate(blocks)

    def reclaim(self, everything: bool, limit: int) -> list[Range]:
        """Blocks that the guest gets back: at most ``limit`` of them."""
        return self.pool.reclaim(0 if everything else self.quotas.reserve_bytes, limit)

    # ---- objects -----------------------------------------------------------

    def create(self, args: CreatePhysicalMemoryObject) -> tuple[PhysicalMemoryObject, bool]:
        """DxgkCbCreatePhysicalMemoryObject; the flag says whether the guest must zero it.

        Raises creation.MoreMemory if the guest has to donate first.
        """
        adapter = self._adapter(args.hAdapter) if args.hAdapter else None
        plan = creation.plan(args)
        if plan.wraps and self.ram.overlaps(*plan.wraps):
            raise invalid(f"IO space {plan.wraps.base:#x}+{plan.size:#x} is guest RAM")
        self.objects.check_room()
        if adapter is not None:
            self.openings.check_room()
        self._check_commitment(plan.committed)
        runs = self._take(plan.allocate, from_pool=plan.wraps is None)
        target = PhysicalMemoryObject(
            type=plan.type,
            cache=CacheType(args.CacheType),
            size=plan.size,
            runs=runs,
            context=args.Context,
            protection=plan.protection,
        )
        self.committed += plan.committed
        target.handle = self.objects.insert(target)
        if adapter is not None:
            self._open(target, adapter)
        return target, plan.zero

    def _check_commitment(self, size: int) -> None:
        """[I] Without a page file, RAM is what a section can be promised."""
        if not size:
            return
        limit = self.quotas.committed_bytes
        if self.ram.known:
            limit = min(limit, self.ram.size)
        if self.committed + size > limit:
            raise Refused(
                NtStatus.COMMITMENT_LIMIT,
                f"{self.committed:#x} bytes of {limit:#x} are committed, {size:#x} wanted",
            )

    def _back(self, target: PhysicalMemoryObject) -> None:
        """Give a section its pages when it is first used; raises creation.MoreMemory."""
        if not target.runs:
            target.runs = self._take(partial(creation.back, target.size))

    def _take(
        self, allocate: Callable[[GuestMemoryPool], list[Range]], *, from_pool: bool = True
    ) -> list[Range]:
        """An object's memory, counted; raises creation.MoreMemory."""
        try:
            runs = allocate(self.pool)
        except creation.MoreMemory as more:
            self._check_guest_has(more.size)
            raise
        try:
            self.pieces.check_room(len(runs))
        except Refused:
            if from_pool:
                self._give_back(runs)
            raise
        self.pieces.held += len(runs)
        return runs

    def _give_back(self, runs: Sequence[Range]) -> None:
        self.pool.free(runs)
        if self.pool.idle_bytes > self.quotas.reserve_bytes:
            self.reporter.memory_surplus()

    def _check_guest_has(self, size: int) -> None:
        """Do not send the guest to look for what it cannot find or we may not take."""
        if self.ram.known and size > self.ram.size:
            raise Refused(NtStatus.NO_MEMORY, f"the guest has less than {size:#x} bytes of RAM")
        if self.pool.donated + size > self.quotas.donated_bytes:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"donations are limited to {self.quotas.donated_bytes:#x} bytes",
            )

    def destroy(self, handle: int, adapter_object: int) -> None:
        """DxgkCbDestroyPhysicalMemoryObject.

        [D] A live list is a bugcheck.  An adapter object that is open and not
        passed is one too [I].  The object then stays, with
        STATUS_RESOURCE_IN_USE for whoever goes on.
        """
        target = self._object(handle)
        opening = self.openings.get(adapter_object) if adapter_object else None
        if opening is not None and opening.target is not target:
            raise Refused(
                NtStatus.INVALID_HANDLE, f"{adapter_object:#x} does not belong to {handle:#x}"
            )
        if target.opening is not None:
            self._refuse_live_lists(target.opening, "destroyed")
            if opening is None:
                reason = f"object {handle:#x} destroyed while an adapter has it open"
                self._bugcheck(SysmmFatalError.ADAPTER_OBJECT_LEAKED, reason)
                raise Refused(NtStatus.RESOURCE_IN_USE, reason)
        if target.cpu_mappings:
            raise Refused(
                NtStatus.RESOURCE_IN_USE,
                f"object {handle:#x} destroyed with {target.cpu_mappings} CPU mappings",
            )
        if opening is not None:
            self._drop_opening(opening)
        self._forget_object(target)
        self.last_destroyed = handle

    def open(self, handle: int, adapter_handle: int) -> AdapterObject:
        """DxgkCbOpenPhysicalMemoryObject. [D] One adapter at a time."""
        target = self._object(handle)
        adapter = self._adapter(adapter_handle)
        if target.opening is not None:
            raise invalid(f"object {handle:#x} is already open")
        return self._open(target, adapter)

    def close(self, adapter_object: int) -> None:
        """DxgkCbClosePhysicalMemoryObject. [I] A live list is a bugcheck, as at destroy."""
        opening = self._opening(adapter_object)
        self._refuse_live_lists(opening, "closed")
        self._drop_opening(opening)

    def map(self, handle: int, mode: int, offset: int, size: int) -> tuple[CpuMapping, int]:
        """DxgkCbMapPhysicalMemory: the view to make, in whole pages, and its token.

        [D] IO space is mapped for kernel mode only.  Raises creation.MoreMemory
        if a section has no pages yet and the guest has to donate first.
        """
        target = self._object(handle)
        if mode not in (AccessMode.KERNEL, AccessMode.USER):
            raise invalid(f"AccessMode {mode} is neither KernelMode nor UserMode")
        if mode == AccessMode.USER and not target.is_ram:
            raise invalid("IO space is mapped for kernel mode only")
        target.check_range(offset, size)
        self.cpu_mappings.check_room()
        self._back(target)
        start = align_down(offset, PAGE_SIZE)
        mapping = CpuMapping(
            target, AccessMode(mode), start, align_up(offset + size, PAGE_SIZE) - start
        )
        token = self.cpu_mappings.insert(mapping)
        target.cpu_mappings += 1
        return mapping, token

    def unmap(self, token: int) -> None:
        """DxgkCbUnmapPhysicalMemory."""
        self.cpu_mappings.remove(token).target.cpu_mappings -= 1

    # ---- address descriptor lists: see Lists --------------------------------

    def allocate_adl(
        self, adapter_object: int, offset: int, size: int, flags: int
    ) -> AddressDescriptorList:
        """DxgkCbAllocateAdl, first half: what the guest must map.

        Raises creation.MoreMemory if a section has no pages yet and the guest
        has to donate first.
        """
        return self._lists.allocate(self._opening(adapter_object), offset, size, flags)

    def announced(self, iova: int) -> None:
        """The hypervisor has announced a mapping at ``iova``: count it for its list."""
        self._lists.announced(iova)

    def commit_adl(self, adapter_object: int, handle: int) -> None:
        """DxgkCbAllocateAdl, second half: live only if every page is mapped as chosen."""
        self._lists.commit(adapter_object, handle)

    def free_adl(self, adapter_object: int, handle: int) -> AddressDescriptorList:
        """DxgkCbFreeAdl, first half: the list is dead, the guest unmaps it."""
        return self._lists.free(adapter_object, handle)

    def release_adl(self, adapter_object: int, handle: int) -> None:
        """DxgkCbFreeAdl, second half: check that nothing stayed mapped."""
        self._lists.release(adapter_object, handle)

    # ---- what is no object of a driver's ---------------------------------------

    def refuse_older(self, adapter_handle: int, name: str) -> None:
        """A callback of WDDM 2.4's family.

        [D] Not for drivers that support remapping: STATUS_NOT_SUPPORTED [I].
        For others it is not there: STATUS_NOT_IMPLEMENTED.
        """
        remaps = self.adapters.get(adapter_handle).remaps
        status = NtStatus.NOT_SUPPORTED if remaps else NtStatus.NOT_IMPLEMENTED
        why = "not for a driver that supports DMA remapping" if remaps else "not implemented"
        raise Refused(status, f"DxgkCb{name} is {why}")

    def _make_section(self, adapter: LogicalAdapter, size: int) -> AdapterObject:
        """A section of Dxgkrnl's own, open."""
        self.objects.check_room()
        self.openings.check_room()
        self._check_commitment(size)
        target = PhysicalMemoryObject(
            PhysicalMemoryType.SECTION, CacheType.CACHED, size, [], context=0, system=True
        )
        self.committed += size
        target.handle = self.objects.insert(target)
        return self._open(target, adapter)

    # ---- for several ---------------------------------------------------------

    def _adapter(self, handle: int) -> LogicalAdapter:
        """An adapter that is not in exclusive access."""
        adapter = self.adapters.get(handle)
        adapter.check_not_exclusive()
        return adapter

    def _object(self, handle: int) -> PhysicalMemoryObject:
        """An object of a driver's."""
        target = self.objects.get(handle)
        if target.system:
            raise Refused(NtStatus.INVALID_HANDLE, f"{handle:#x} is no driver's object")
        return target

    def _opening(self, handle: int) -> AdapterObject:
        """An adapter object of a driver's."""
        opening = self.openings.get(handle)
        if opening.target.system:
            raise Refused(NtStatus.INVALID_HANDLE, f"{handle:#x} is no driver's adapter object")
        return opening

    def _open(self, target: PhysicalMemoryObject, adapter: LogicalAdapter) -> AdapterObject:
        opening = AdapterObject(target, adapter)
        opening.handle = self.openings.insert(opening)
        target.opening = opening
        return opening

    def _drop_opening(self, opening: AdapterObject) -> None:
        self.openings.remove(opening.handle)
        opening.target.opening = None

    def _forget_object(self, target: PhysicalMemoryObject) -> None:
        self.objects.remove(target.handle)
        if target.type is PhysicalMemoryType.SECTION:
            self.committed -= target.size
        self.pieces.held -= len(target.runs)
        if target.is_ram:
            self._give_back(target.runs)

    def _refuse_live_lists(self, opening: AdapterObject, verb: str) -> None:
        if opening.lists:
            reason = (
                f"object {opening.target.handle:#x} {verb} with {len(opening.lists)} live lists"
            )
            self._bugcheck(SysmmFatalError.ADL_LEAKED, reason)
            raise Refused(NtStatus.RESOURCE_IN_USE, reason)

    def _bugcheck(self, subcode: SysmmFatalError, reason: str) -> None:
        self.reporter.bugcheck(Bugcheck.VIDEO_DXGKRNL_SYSMM_FATAL_ERROR, subcode, reason)
