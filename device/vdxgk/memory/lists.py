"""Address descriptor lists: from AllocateAdl to FreeAdl.

A list is allocated (the guest then maps it), committed (checked, live), freed
(dead, the guest unmaps it) and released (checked again).

Rules are tagged with their basis: [D] documented, [I] inferred by us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from vdxgk.memory import remapping
from vdxgk.memory.ddi import AllocateAdlFlags, PhysicalMemoryType
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.handles import HandleTable
from vdxgk.memory.limits import Pieces, Quotas
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import (
    AdapterObject,
    AddressDescriptorList,
    ListState,
    LogicalAdapter,
    PhysicalMemoryObject,
    WantedMapping,
)
from vdxgk.memory.pages import LARGE_PAGE_SIZE, PAGE_SIZE, Range, clip, page_aligned
from vdxgk.memory.ranges import RangeSet
from vdxgk.memory.reporter import Reporter


class Lists:
    """The lists of one guest.

    ``openings`` are the adapter objects, ``back`` gives an object memory that
    has none yet, ``pieces`` counts mappings.
    """

    def __init__(
        self,
        openings: HandleTable[AdapterObject],
        tables: Sequence[remapping.Translations],
        ram: GuestRam,
        reporter: Reporter,
        back: Callable[[PhysicalMemoryObject], None],
        quotas: Quotas,
        pieces: Pieces,
    ) -> None:
        self._openings = openings
        self._tables = tables
        self._ram = ram
        self._reporter = reporter
        self._back = back
        self._quotas = quotas
        self._pieces = pieces
        self.handles: HandleTable[AddressDescriptorList] = HandleTable(
            "address descriptor list", 0xA4, quotas.lists
        )
        self.last_freed: list[WantedMapping] = []
        """The mappings of the list released last: stale, for tests of staleness."""
        # Replaced, never changed, so that the protocol thread reads it without the lock.
        self._being_mapped: tuple[AddressDescriptorList, ...] = ()
        self._identity = RangeSet()
        """The pages of all lists that an IOMMU maps at their own addresses."""

    def allocate(
        self, opening: AdapterObject, offset: int, size: int, flags: int
    ) -> AddressDescriptorList:
        """What the guest must map.  The list is not live before ``commit``."""
        opening.adapter.check_not_exclusive()
        target = opening.target
        if flags & ~int(AllocateAdlFlags.REQUIRE_CONTIGUOUS | AllocateAdlFlags.PREFER_CONTIGUOUS):
            raise invalid(f"reserved Flags {flags:#x} of AllocateAdl are set")
        if not page_aligned(offset, size):
            raise invalid(f"Offset {offset:#x} and Size {size:#x} must be page multiples")
        target.check_range(offset, size)
        required = bool(flags & AllocateAdlFlags.REQUIRE_CONTIGUOUS)
        if required and target.type not in (
            PhysicalMemoryType.CONTIGUOUS_MEMORY,
            PhysicalMemoryType.IO_SPACE,
        ):
            raise invalid(f"RequireContiguous on an object of type {target.type.name}")
        self._check_room()
        self._back(target)
        runs = list(clip(target.runs, offset, size))
        self._pieces.check_room(len(runs))
        adl = AddressDescriptorList(
            opening=opening,
            offset=offset,
            size=size,
            contiguous=False,
            mappings=self._place(opening.adapter, runs, size),
        )
        # [I] Unasked, a list is an array of pages, even where they lie in a row.
        adl.contiguous = flags != 0 and adl.in_a_row
        adl.handle = self.handles.insert(adl)
        opening.lists[adl.handle] = adl
        self._pieces.held += len(adl.mappings)
        self._being_mapped = (*self._being_mapped, adl)
        return adl

    def _check_room(self) -> None:
        self.handles.check_room()
        if len(self._being_mapped) >= self._quotas.unfinished_lists:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"{len(self._being_mapped)} lists are allocated and not committed yet",
            )

    def _place(
        self, adapter: LogicalAdapter, runs: Sequence[Range], size: int
    ) -> list[WantedMapping]:
        if adapter.space is None:
            if adapter.translated:
                self._take_identity(runs)
            return [WantedMapping(run.base, run.base, run.size) for run in runs]
        alignment = LARGE_PAGE_SIZE if size >= LARGE_PAGE_SIZE else PAGE_SIZE
        # The same phase on both sides lets the IOMMU use large leaves.
        base = adapter.space.reserve(size, alignment, runs[0].base % alignment, runs)
        mappings = []
        for run in runs:
            mappings.append(WantedMapping(base, run.base, run.size))
            base += run.size
        return mappings

    def _take_identity(self, runs: Sequence[Range]) -> None:
        """In an identity domain a page can be mapped once only."""
        for run in runs:
            for taken in self._identity.within(run.base, run.end):
                raise Refused(
                    NtStatus.RESOURCE_IN_USE,
                    f"page {taken.base:#x} is in another list, and in physical mode behind an "
                    "IOMMU a page can be in one only",
                )
        for run in runs:
            self._identity.add(run)

    def announced(self, iova: int) -> None:
        """The hypervisor has announced a mapping at ``iova``: count it for its list."""
        for adl in self._being_mapped:
            if adl.covers(iova):
                adl.announced += 1

    def commit(self, adapter_object: int, handle: int) -> None:
        """Make a list live if every page is mapped as chosen.

        STATUS_UNSUCCESSFUL and a report otherwise [I]; the guest then unmaps
        and releases.
        """
        adl = self._get(adapter_object, handle)
        if adl.state is not ListState.MAPPING:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"list {handle:#x} is {adl.state.value}")
        self._no_longer_mapping(adl)
        failure = self.check_mapped(adl)
        if failure is not None:
            adl.state = ListState.UNMAPPING
            raise self._reported(handle, failure)
        adl.state = ListState.LIVE

    def check_mapped(self, adl: AddressDescriptorList) -> remapping.RemapFailure | None:
        """The first page that is not mapped as chosen; None if all are."""
        io_space = not adl.opening.target.is_ram
        return self._first(
            remapping.check_mapped(adl.mappings, table, self._ram, io_space=io_space)
            for table in self._tables
        )

    @staticmethod
    def _first(checks: Iterable[remapping.RemapFailure | None]) -> remapping.RemapFailure | None:
        """What the first linked function has that fails, with its number."""
        for function, failure in enumerate(checks):
            if failure is not None:
                return replace(failure, function=function)
        return None

    def free(self, adapter_object: int, handle: int) -> AddressDescriptorList:
        """The list, committed or not, is dead; the guest unmaps it."""
        adl = self._get(adapter_object, handle)
        if adl.state is ListState.UNMAPPING:
            raise Refused(NtStatus.INVALID_HANDLE, f"list {handle:#x} was freed before")
        self._no_longer_mapping(adl)
        adl.state = ListState.UNMAPPING
        return adl

    def release(self, adapter_object: int, handle: int) -> None:
        """Check that nothing of a freed list stayed mapped, and forget it.

        On failure STATUS_UNSUCCESSFUL and a report; the list's logical
        addresses are not used again, and the guest may release once more.
        """
        adl = self._get(adapter_object, handle)
        if adl.state is not ListState.UNMAPPING:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"list {handle:#x} is {adl.state.value}")
        if adl.opening.adapter.translated:
            failure = self._first(
                remapping.check_unmapped(adl.mappings, table, self._ram) for table in self._tables
            )
            if failure is not None:
                raise self._reported(handle, failure)
        space = adl.opening.adapter.space
        if space is not None:
            space.release(*adl.reserved)
        self.last_freed = adl.mappings
        self.forget(adl)

    def forget(self, adl: AddressDescriptorList) -> None:
        """Drop a list without a look at its mappings."""
        self._no_longer_mapping(adl)
        adapter = adl.opening.adapter
        if adapter.space is None and adapter.translated:
            for mapping in adl.mappings:
                self._identity.remove(Range(mapping.physical, mapping.size))
        self._pieces.held -= len(adl.mappings)
        del adl.opening.lists[adl.handle]
        self.handles.remove(adl.handle)

    def _get(self, adapter_object: int, handle: int) -> AddressDescriptorList:
        opening = self._openings.get(adapter_object)
        opening.adapter.check_not_exclusive()
        adl = self.handles.get(handle)
        if adl.opening is not opening:
            raise Refused(
                NtStatus.INVALID_HANDLE,
                f"list {handle:#x} does not belong to adapter object {adapter_object:#x}",
            )
        return adl

    def _reported(self, handle: int, failure: remapping.RemapFailure) -> Refused:
        self._reporter.remap_failure(handle, failure)
        return Refused(
            NtStatus.UNSUCCESSFUL,
            f"list {handle:#x}: page {failure.logical:#x} {failure.reason}",
        )

    def _no_longer_mapping(self, adl: AddressDescriptorList) -> None:
        self._being_mapped = tuple(other for other in self._being_mapped if other is not adl)
