"""Where frame buffers are saved while their device has no power.

[D] Dxgkrnl makes a section for each physical adapter, as large as the driver
answered to DXGKQAITYPE_FRAMEBUFFERSAVESIZE.  The driver pins it when it saves
or restores, and gets a list of all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vdxgk.memory.ddi import AllocateAdlFlags, PinFrameBufferFlags
from vdxgk.memory.handles import HandleTable
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import AddressDescriptorList, LogicalAdapter, SaveArea
from vdxgk.memory.pages import page_aligned

if TYPE_CHECKING:
    from vdxgk.memory.lists import Lists
    from vdxgk.memory.objects import AdapterObject


class SaveAreas:
    """The save areas of all adapters.

    ``make_section`` makes a section of so many bytes and opens it.
    """

    def __init__(
        self,
        adapters: HandleTable[LogicalAdapter],
        lists: Lists,
        make_section: Callable[[LogicalAdapter, int], AdapterObject],
    ) -> None:
        self._adapters = adapters
        self._lists = lists
        self._make_section = make_section

    def reserve(self, adapter_handle: int, index: int, size: int) -> None:
        """Physical adapter ``index`` needs ``size`` bytes: MaximumSize of its driver's answer."""
        adapter = self._adapters.get(adapter_handle)
        adapter.check_not_exclusive()
        if index >= adapter.functions or index in adapter.save_areas:
            raise invalid(f"physical adapter {index} has a save area, or is none")
        if size == 0 or not page_aligned(size):
            raise invalid(f"MaximumSize {size:#x} of the save area is not whole pages")
        adapter.save_areas[index] = SaveArea(self._make_section(adapter, size))

    def pin(
        self, adapter_handle: int, index: int, commit_size: int, flags: int
    ) -> AddressDescriptorList:
        """DxgkCbPinFrameBufferForSave2, first half: what the guest must map.

        [D] CommitSize is whole pages, at most MaximumSize: as for any list of
        the section.  Contents survive unpinning [I].  Raises as Lists.allocate.
        """
        area = self._find(adapter_handle, index)
        if flags & ~int(PinFrameBufferFlags.PREFER_CONTIGUOUS):
            raise invalid(f"reserved Flags {flags:#x} of PinFrameBufferForSave2 are set")
        if area.pinned is not None:
            raise Refused(NtStatus.RESOURCE_IN_USE, f"save area {index} is pinned already")
        wanted = int(AllocateAdlFlags.PREFER_CONTIGUOUS) if flags else 0
        area.pinned = self._lists.allocate(area.opening, 0, commit_size, wanted)
        return area.pinned

    def unpin(self, adapter_handle: int, index: int) -> None:
        """DxgkCbUnpinFrameBufferForSave, first half: the list is dead, the guest unmaps it."""
        area = self._find(adapter_handle, index)
        if area.pinned is None:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"save area {index} is not pinned")
        self._lists.free(area.opening.handle, area.pinned.handle)

    def _find(self, adapter_handle: int, index: int) -> SaveArea:
        adapter = self._adapters.get(adapter_handle)
        adapter.check_not_exclusive()
        areas = adapter.save_areas
        if index not in areas:
            raise invalid(f"PhysicalAdapterIndex {index} has no save area")
        area = areas[index]
        if area.pinned is not None and area.pinned.handle not in self._lists.handles:
            area.pinned = None  # it has been released
        return area
