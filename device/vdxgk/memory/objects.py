"""What the callbacks create: objects, their openings by an adapter, lists, CPU mappings."""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, field

from vdxgk.memory.ddi import AccessMode, CacheType, PageProtection, PhysicalMemoryType
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.pages import Range


class AddressingMode(enum.IntEnum):
    """What a page number in a list means; numbers are VDXGK_MODE_*."""

    PHYSICAL = 1
    LOGICAL = 2


@dataclass(frozen=True, slots=True)
class Addressing:
    """An addressing mode and, if logical, an address space."""

    mode: AddressingMode
    space: LogicalAddressSpace | None


@dataclass(slots=True)
class LogicalAdapter:
    """One started adapter.

    ``remaps``: its driver supports DMA remapping (DXGK_IOMMU_CAPS).
    """

    addressing: Addressing
    translated: bool
    remaps: bool = True
    functions: int = 1
    """PCI functions that are linked to it: its physical adapters."""
    handle: int = 0
    save_areas: dict[int, SaveArea] = field(default_factory=dict)
    """By the physical adapter's index."""
    exclusive: Addressing | None = None
    """Within exclusive access: what comes after it."""

    @property
    def mode(self) -> AddressingMode:
        """What its page numbers mean."""
        return self.addressing.mode

    @property
    def space(self) -> LogicalAddressSpace | None:
        """Its logical addresses."""
        return self.addressing.space

    def check_not_exclusive(self) -> None:
        """Raise STATUS_INVALID_DEVICE_STATE between Begin- and EndExclusiveAccess [I]."""
        if self.exclusive is not None:
            raise Refused(NtStatus.INVALID_DEVICE_STATE, "the adapter is in exclusive access")


@dataclass(slots=True)
class PhysicalMemoryObject:
    """Memory that a driver owns, whichever type it has.

    ``runs`` are guest-physical, in object order, ``size`` their sum in bytes.
    A section has no runs before its first use.
    """

    type: PhysicalMemoryType
    cache: CacheType
    size: int
    runs: list[Range]
    context: int
    protection: PageProtection = PageProtection.READWRITE
    system: bool = False
    """Dxgkrnl's own: no driver knows its handles, and none may use them."""
    handle: int = 0
    opening: AdapterObject | None = None
    cpu_mappings: int = 0

    @property
    def is_ram(self) -> bool:
        """Whether its pages are donated memory, and not a range of the driver's."""
        return self.type is not PhysicalMemoryType.IO_SPACE

    @property
    def locked(self) -> bool:
        """Whether its pages must stay where they are: a section's only while in use [D]."""
        if self.type is not PhysicalMemoryType.SECTION:
            return True
        return bool(self.cpu_mappings or (self.opening and self.opening.lists))

    def check_range(self, offset: int, size: int) -> None:
        """Raise STATUS_INVALID_PARAMETER unless the range is not empty and within the object."""
        if size == 0 or offset + size > self.size:
            raise invalid(
                f"Offset {offset:#x} and Size {size:#x} are not within {self.size:#x} bytes"
            )


@dataclass(slots=True)
class AdapterObject:
    """An object as one adapter has opened it."""

    target: PhysicalMemoryObject
    adapter: LogicalAdapter
    handle: int = 0
    lists: dict[int, AddressDescriptorList] = field(default_factory=dict)


class ListState(enum.Enum):
    """A list's life: the guest maps it, the device may use it, the guest unmaps it."""

    MAPPING = "mapping"
    LIVE = "live"
    UNMAPPING = "unmapping"


@dataclass(frozen=True, slots=True)
class WantedMapping:
    """What the guest's IOMMU must map: ``size`` bytes at ``logical`` to ``physical``."""

    logical: int
    physical: int
    size: int


@dataclass(slots=True)
class AddressDescriptorList:
    """A DXGK_ADL on its way from allocation to release."""

    opening: AdapterObject
    offset: int
    size: int
    contiguous: bool
    mappings: list[WantedMapping]
    handle: int = 0
    state: ListState = ListState.MAPPING
    announced: int = 0
    """Mappings that the hypervisor announced within the list's range, as messages."""

    @property
    def reserved(self) -> Range:
        """The logical range, for a list whose mappings lie in a row."""
        return Range(self.mappings[0].logical, self.size)

    @property
    def in_a_row(self) -> bool:
        """Whether the mappings are one logical range: always so in logical mode."""
        return self.opening.adapter.space is not None or all(
            a.logical + a.size == b.logical for a, b in itertools.pairwise(self.mappings)
        )

    def covers(self, iova: int) -> bool:
        """Whether ``iova`` belongs to the list, by its ends; exact if they lie in a row."""
        last = self.mappings[-1]
        return self.mappings[0].logical <= iova < last.logical + last.size


@dataclass(slots=True)
class SaveArea:
    """Where a physical adapter's frame buffer is saved: a section of Dxgkrnl's own [D]."""

    opening: AdapterObject
    pinned: AddressDescriptorList | None = None


@dataclass(frozen=True, slots=True)
class CpuMapping:
    """A view that MapPhysicalMemory made; whole pages."""

    target: PhysicalMemoryObject
    mode: AccessMode
    offset: int
    size: int

    @property
    def writable(self) -> bool:
        """[I] PageProtection binds user mode; a kernel mapping can always write."""
        return self.mode is AccessMode.KERNEL or self.target.protection is PageProtection.READWRITE
