"""The calls of the physical-memory family, as Dxgkrnl answers them.

One object of this class is one guest's Dxgkrnl.  Callers on several threads
(the channel, the control door) hold its ``lock`` around each call; no call
waits for the guest.  A refusal raises Refused and changes nothing.

Rules are tagged with their basis: [D] documented, [I] inferred by us.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vdxgk.memory import creation, remapping
from vdxgk.memory.ddi import (
    AccessMode,
    AllocateAdlFlags,
    Bugcheck,
    CacheType,
    CreatePhysicalMemoryObject,
    IommuCaps,
    PhysicalMemoryType,
    SysmmFatalError,
)
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.handles import HandleTable
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import (
    AdapterObject,
    AddressDescriptorList,
    AddressingMode,
    CpuMapping,
    ListState,
    LogicalAdapter,
    PhysicalMemoryObject,
    WantedMapping,
)
from vdxgk.memory.pages import (
    LARGE_PAGE_SIZE,
    PAGE_SIZE,
    Range,
    align_down,
    align_up,
    clip,
    page_aligned,
)
from vdxgk.memory.pool import GuestMemoryPool


@dataclass(frozen=True, slots=True)
class Quotas:
    """What one guest may hold at once; beyond it STATUS_INSUFFICIENT_RESOURCES."""

    objects: int = 4096
    lists: int = 16384
    cpu_mappings: int = 4096
    donated_bytes: int = 16 << 30
    reserve_bytes: int = 16 << 20
    """Idle donated memory that the backend keeps for the next object."""


class Reporter(Protocol):
    """Who hears of what Windows would stop or log for."""

    def remap_failure(self, adl: int, failure: remapping.RemapFailure) -> None:
        """A commit or release check failed."""

    def bugcheck(self, code: Bugcheck, parameter1: int, reason: str) -> None:
        """A rule was broken whose breach stops Windows."""

    def memory_surplus(self) -> None:
        """RECLAIM would return blocks now."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What the guest tells when its adapter starts; see struct vdxgk_start_args."""

    highest_visible: int
    iommu_caps: IommuCaps
    translated: bool
    highest_ram: int
    aperture: tuple[int, int]
    probe: tuple[int, int]
    mode: AddressingMode | None
    reserved: Sequence[Range] = ()


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
        self.table = table
        self.ram = ram
        self.reporter = reporter
        self.dma_bits = dma_bits
        self.quotas = quotas or Quotas()
        self.seed = seed
        self.lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self.pool = GuestMemoryPool(self.quotas.donated_bytes, self.seed)
        self.adapters: HandleTable[LogicalAdapter] = HandleTable("adapter", 0xA1, 16)
        self.objects: HandleTable[PhysicalMemoryObject] = HandleTable(
            "physical memory object", 0xA2, self.quotas.objects
        )
        self.openings: HandleTable[AdapterObject] = HandleTable(
            "adapter memory object", 0xA3, self.quotas.objects
        )
        self.lists: HandleTable[AddressDescriptorList] = HandleTable(
            "address descriptor list", 0xA4, self.quotas.lists
        )
        self.cpu_mappings: HandleTable[CpuMapping] = HandleTable(
            "CPU mapping", 0xA5, self.quotas.cpu_mappings
        )
        self.last_destroyed: int | None = None
        """The handle of the object destroyed last: stale, for tests of staleness."""
        self.last_freed: list[WantedMapping] = []
        """The mappings of the list released last, likewise."""
        # Replaced, never changed, so that the protocol thread reads it without the lock.
        self._being_mapped: tuple[AddressDescriptorList, ...] = ()

    def reset(self) -> None:
        """Forget everything: the driver or the machine starts anew."""
        self._forget()

    # ---- adapters ----------------------------------------------------------

    def start_adapter(self, request: StartRequest) -> LogicalAdapter:
        """Decide whether and how an adapter starts.

        [D] If RAM lies above what the GPU can address, and remapping is not
        possible, the adapter does not start.  STATUS_NOT_SUPPORTED then [I].
        """
        if request.highest_visible == 0:
            raise invalid("HighestVisibleAddress is 0")
        reach = min(request.highest_visible, (1 << self.dma_bits) - 1)
        remapping_possible = (
            request.translated and IommuCaps.DMA_REMAPPING_SUPPORTED in request.iommu_caps
        )
        mode = request.mode or (
            AddressingMode.LOGICAL if remapping_possible else AddressingMode.PHYSICAL
        )
        if mode is AddressingMode.LOGICAL and not remapping_possible:
            raise Refused(
                NtStatus.NOT_SUPPORTED,
                "logical addressing needs an IOMMU that translates for this device (boot the "
                "guest with one, and with it enabled) and DmaRemappingSupported from the driver",
            )
        if mode is AddressingMode.PHYSICAL and request.highest_ram > reach:
            raise Refused(
                NtStatus.NOT_SUPPORTED,
                f"guest memory reaches up to {request.highest_ram:#x}, the GPU only to "
                f"{reach:#x}: without remapping the adapter cannot start",
            )
        self._check_memory_is_shared(*request.probe)
        space = None
        if mode is AddressingMode.LOGICAL:
            start, end = request.aperture
            space = LogicalAddressSpace(start, min(end, reach), request.reserved)
            if space.free_bytes == 0:
                raise invalid(f"aperture {start:#x}-{end:#x} holds no logical address space")
        adapter = LogicalAdapter(mode, request.translated, space)
        adapter.handle = self.adapters.insert(adapter)
        return adapter

    def _check_memory_is_shared(self, gpa: int, value: int) -> None:
        """The guest has written ``value`` at ``gpa``: is that what we see there?"""
        place = self.ram.locate(gpa)
        if place is None:
            if self.ram.known:
                raise invalid(f"the probe address {gpa:#x} is not guest RAM")
            return
        if place.contiguous < 8:
            raise invalid(f"the probe address {gpa:#x} is not 8 bytes of guest RAM")
        found = int.from_bytes(place.backing.read(place.offset, 8), "little")
        if found != value:
            raise Refused(
                NtStatus.NOT_SUPPORTED,
                f"guest memory is private: the guest wrote {value:#x} at {gpa:#x}, the device "
                f"sees {found:#x}. Give QEMU's memory-backend share=on",
            )

    def stop_adapter(self, handle: int) -> tuple[int, int]:
        """Stop an adapter; returns how many objects and lists it leaked, now forgotten.

        [D] Leaked adapter objects and lists are bugchecks 0x1E4, 6 and 7.
        """
        adapter = self.adapters.remove(handle)
        openings = [opening for opening in self.openings if opening.adapter is adapter]
        leaked_lists = sum(len(opening.lists) for opening in openings)
        if leaked_lists:
            self._bugcheck(SysmmFatalError.ADL_LEAKED, f"{leaked_lists} lists leaked at stop")
        if openings:
            self._bugcheck(
                SysmmFatalError.ADAPTER_OBJECT_LEAKED, f"{len(openings)} objects leaked at stop"
            )
        for opening in openings:
            for adl in list(opening.lists.values()):
                self._forget_list(adl)
            self._drop_opening(opening)
            self._forget_object(opening.target)
        return len(openings), leaked_lists

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
        adapter = self.adapters.get(args.hAdapter) if args.hAdapter else None
        plan = creation.plan(args)
        self.objects.check_room()
        if adapter is not None:
            self.openings.check_room()
        try:
            runs = plan.allocate(self.pool)
        except creation.MoreMemory as more:
            self._check_guest_has(more.size)
            raise
        target = PhysicalMemoryObject(
            type=PhysicalMemoryType(args.Type),
            cache=CacheType(args.CacheType),
            size=plan.size,
            runs=runs,
            context=args.Context,
        )
        target.handle = self.objects.insert(target)
        if adapter is not None:
            self._open(target, adapter)
        return target, plan.zero

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
        target = self.objects.get(handle)
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
        target = self.objects.get(handle)
        adapter = self.adapters.get(adapter_handle)
        if target.opening is not None:
            raise invalid(f"object {handle:#x} is already open")
        return self._open(target, adapter)

    def close(self, adapter_object: int) -> None:
        """DxgkCbClosePhysicalMemoryObject. [I] A live list is a bugcheck, as at destroy."""
        opening = self.openings.get(adapter_object)
        self._refuse_live_lists(opening, "closed")
        self._drop_opening(opening)

    def map(self, handle: int, mode: int, offset: int, size: int) -> tuple[CpuMapping, int]:
        """DxgkCbMapPhysicalMemory: the view to make, in whole pages, and its token."""
        target = self.objects.get(handle)
        if mode not in (AccessMode.KERNEL, AccessMode.USER):
            raise invalid(f"AccessMode {mode} is neither KernelMode nor UserMode")
        _check_range(offset, size, target.size)
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

    # ---- address descriptor lists ------------------------------------------

    def allocate_adl(
        self, adapter_object: int, offset: int, size: int, flags: int
    ) -> AddressDescriptorList:
        """DxgkCbAllocateAdl, first half: what the guest must map.

        The list is not live before ``commit_adl``.
        """
        opening = self.openings.get(adapter_object)
        target = opening.target
        if flags & ~int(AllocateAdlFlags.REQUIRE_CONTIGUOUS | AllocateAdlFlags.PREFER_CONTIGUOUS):
            raise invalid(f"reserved Flags {flags:#x} of AllocateAdl are set")
        if not page_aligned(offset, size):
            raise invalid(f"Offset {offset:#x} and Size {size:#x} must be page multiples")
        _check_range(offset, size, target.size)
        required = bool(flags & AllocateAdlFlags.REQUIRE_CONTIGUOUS)
        if required and target.type not in (
            PhysicalMemoryType.CONTIGUOUS_MEMORY,
            PhysicalMemoryType.IO_SPACE,
        ):
            raise invalid(f"RequireContiguous on an object of type {target.type.name}")
        self.lists.check_room()
        runs = list(clip(target.runs, offset, size))
        mappings = self._place(opening.adapter, runs, size)
        adl = AddressDescriptorList(
            opening=opening,
            offset=offset,
            size=size,
            contiguous=False,
            mappings=mappings,
        )
        # [I] Unasked, a list is an array of pages, even where they lie in a row.
        adl.contiguous = flags != 0 and adl.in_a_row
        adl.handle = self.lists.insert(adl)
        opening.lists[adl.handle] = adl
        self._being_mapped = (*self._being_mapped, adl)
        return adl

    def _place(
        self, adapter: LogicalAdapter, runs: Sequence[Range], size: int
    ) -> list[WantedMapping]:
        if adapter.space is None:
            if adapter.translated:
                self._refuse_identity_overlap(runs)
            return [WantedMapping(run.base, run.base, run.size) for run in runs]
        alignment = LARGE_PAGE_SIZE if size >= LARGE_PAGE_SIZE else PAGE_SIZE
        # The same phase on both sides lets the IOMMU use large leaves.
        base = adapter.space.reserve(size, alignment, runs[0].base % alignment, runs)
        mappings = []
        for run in runs:
            mappings.append(WantedMapping(base, run.base, run.size))
            base += run.size
        return mappings

    def _refuse_identity_overlap(self, runs: Sequence[Range]) -> None:
        """In an identity domain a page can be mapped once only."""
        for adl in self.lists:
            for taken in adl.mappings:
                for run in runs:
                    if taken.physical < run.end and run.base < taken.physical + taken.size:
                        raise Refused(
                            NtStatus.RESOURCE_IN_USE,
                            f"page {max(run.base, taken.physical):#x} is in another list, and "
                            "in physical mode behind an IOMMU a page can be in one only",
                        )

    def announced(self, iova: int) -> None:
        """The hypervisor has announced a mapping at ``iova``: count it for its list."""
        for adl in self._being_mapped:
            if adl.covers(iova):
                adl.announced += 1

    def commit_adl(self, adapter_object: int, handle: int) -> None:
        """DxgkCbAllocateAdl, second half: live only if every page is mapped as chosen.

        STATUS_UNSUCCESSFUL and a report otherwise [I]; the guest then unmaps
        and releases.
        """
        adl = self._list_of(adapter_object, handle)
        if adl.state is not ListState.MAPPING:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"list {handle:#x} is {adl.state.value}")
        self._no_longer_mapping(adl)
        failure = remapping.check_mapped(adl.mappings, self.table, self.ram)
        if failure is not None:
            adl.state = ListState.UNMAPPING
            self.reporter.remap_failure(handle, failure)
            raise Refused(
                NtStatus.UNSUCCESSFUL,
                f"list {handle:#x}: page {failure.logical:#x} {failure.reason}",
            )
        adl.state = ListState.LIVE

    def free_adl(self, adapter_object: int, handle: int) -> AddressDescriptorList:
        """DxgkCbFreeAdl, first half: the list is dead, the guest unmaps it."""
        adl = self._list_of(adapter_object, handle)
        if adl.state is ListState.UNMAPPING:
            raise Refused(NtStatus.INVALID_HANDLE, f"list {handle:#x} was freed before")
        self._no_longer_mapping(adl)
        adl.state = ListState.UNMAPPING
        return adl

    def release_adl(self, adapter_object: int, handle: int) -> None:
        """DxgkCbFreeAdl, second half: check that nothing stayed mapped.

        On failure STATUS_UNSUCCESSFUL and a report; the list's logical
        addresses are not used again, and the guest may release once more.
        """
        adl = self._list_of(adapter_object, handle)
        if adl.state is not ListState.UNMAPPING:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"list {handle:#x} is {adl.state.value}")
        if adl.opening.adapter.translated:
            failure = remapping.check_unmapped(adl.mappings, self.table, self.ram)
            if failure is not None:
                self.reporter.remap_failure(handle, failure)
                raise Refused(
                    NtStatus.UNSUCCESSFUL,
                    f"list {handle:#x}: page {failure.logical:#x} {failure.reason}",
                )
        space = adl.opening.adapter.space
        if space is not None:
            space.release(*adl.reserved)
        self.last_freed = adl.mappings
        self._forget_list(adl)

    # ---- for both ----------------------------------------------------------

    def _list_of(self, adapter_object: int, handle: int) -> AddressDescriptorList:
        opening = self.openings.get(adapter_object)
        adl = self.lists.get(handle)
        if adl.opening is not opening:
            raise Refused(
                NtStatus.INVALID_HANDLE,
                f"list {handle:#x} does not belong to adapter object {adapter_object:#x}",
            )
        return adl

    def _no_longer_mapping(self, adl: AddressDescriptorList) -> None:
        self._being_mapped = tuple(other for other in self._being_mapped if other is not adl)

    def _forget_list(self, adl: AddressDescriptorList) -> None:
        self._no_longer_mapping(adl)
        del adl.opening.lists[adl.handle]
        self.lists.remove(adl.handle)

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
        self.pool.free(target.runs)
        if self.pool.idle_bytes > self.quotas.reserve_bytes:
            self.reporter.memory_surplus()

    def _refuse_live_lists(self, opening: AdapterObject, verb: str) -> None:
        if opening.lists:
            reason = (
                f"object {opening.target.handle:#x} {verb} with {len(opening.lists)} live lists"
            )
            self._bugcheck(SysmmFatalError.ADL_LEAKED, reason)
            raise Refused(NtStatus.RESOURCE_IN_USE, reason)

    def _bugcheck(self, subcode: SysmmFatalError, reason: str) -> None:
        self.reporter.bugcheck(Bugcheck.VIDEO_DXGKRNL_SYSMM_FATAL_ERROR, subcode, reason)


def _check_range(offset: int, size: int, limit: int) -> None:
    if size == 0 or offset + size > limit:
        raise invalid(f"Offset {offset:#x} and Size {size:#x} are not within {limit:#x} bytes")
