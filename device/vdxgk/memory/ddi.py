"""The DDI's enumerations and argument structures, as d3dkmddi.h has them on x64.

Offsets and sizes are those of the Windows x64 ABI (LLP64).  The stub's
headers assert the same numbers at compile time.
"""

from __future__ import annotations

import ctypes
import enum
from typing import ClassVar


class PhysicalMemoryType(enum.IntEnum):
    """DXGK_PHYSICAL_MEMORY_TYPE."""

    MDL = 0
    CONTIGUOUS_MEMORY = 1
    SECTION = 2
    IO_SPACE = 3


class CacheType(enum.IntEnum):
    """DXGK_MEMORY_CACHING_TYPE."""

    NON_CACHED = 0
    CACHED = 1
    WRITE_COMBINED = 2


class PageProtection(enum.IntEnum):
    """What CREATE.Section.PageProtection may be [D]; no cache bits."""

    READONLY = 0x02
    READWRITE = 0x04
    WRITECOPY = 0x08
    EXECUTE = 0x10


SEC_COMMIT = 0x08000000
"""The one allocation attribute of a section [D]."""


class AccessMode(enum.IntEnum):
    """DXGK_ACCESS_MODE."""

    KERNEL = 0
    USER = 1


class MdlFlags(enum.IntFlag):
    """Flags of MmAllocatePagesForMdlEx; 0x80 is not publicly defined."""

    DONT_ZERO_ALLOCATION = 0x01
    FROM_LOCAL_NODE_ONLY = 0x02
    FULLY_REQUIRED = 0x04
    NO_WAIT = 0x08
    PREFER_CONTIGUOUS = 0x10
    REQUIRE_CONTIGUOUS_CHUNKS = 0x20
    FAST_LARGE_PAGES = 0x40
    AND_HOT_REMOVE = 0x100


class IommuCaps(enum.IntFlag):
    """DXGK_IOMMU_CAPS (DXGKQAITYPE_IOMMU_CAPS, 35)."""

    ISOLATION_SUPPORTED = 0x01
    ISOLATION_REQUIRED = 0x02
    DMA_REMAPPING_SUPPORTED = 0x04
    GPU_VA_IOMMU_REQUIRED = 0x08
    GPU_VA_IOMMU_GLOBAL_REQUIRED = 0x10


class AllocateAdlFlags(enum.IntFlag):
    """DXGKARGCB_ALLOCATE_ADL.Flags."""

    REQUIRE_CONTIGUOUS = 0x1
    PREFER_CONTIGUOUS = 0x2


class PinFrameBufferFlags(enum.IntFlag):
    """DXGKARGCB_PINFRAMEBUFFERFORSAVE2.Flags."""

    PREFER_CONTIGUOUS = 0x1


MDL_MAX_SIZE = (4 << 30) - 4096
"""MmAllocatePagesForMdlEx's limit; whether the newer callback keeps it is not documented."""


class Bugcheck(enum.IntEnum):
    """Stop codes that a breach of the rules earns under Windows."""

    VIDEO_DXGKRNL_SYSMM_FATAL_ERROR = 0x1E4


class SysmmFatalError(enum.IntEnum):
    """Parameter 1 of VIDEO_DXGKRNL_SYSMM_FATAL_ERROR."""

    ADAPTER_OBJECT_LEAKED = 6
    ADL_LEAKED = 7
    DOMAIN_REATTACH_FAILED = 0xA


class _MdlUnion(ctypes.LittleEndianStructure):
    _fields_: ClassVar = [
        ("LowAddress", ctypes.c_uint64),
        ("HighAddress", ctypes.c_uint64),
        ("SkipBytes", ctypes.c_uint64),
        ("Flags", ctypes.c_uint32),
        ("Padding", ctypes.c_uint32),
    ]


class _ContiguousUnion(ctypes.LittleEndianStructure):
    _fields_: ClassVar = [
        ("LowestAcceptableAddress", ctypes.c_uint64),
        ("HighestAcceptableAddress", ctypes.c_uint64),
        ("BoundaryAddressMultiple", ctypes.c_uint64),
        ("Padding", ctypes.c_uint64),
    ]


class _SectionUnion(ctypes.LittleEndianStructure):
    _fields_: ClassVar = [
        ("DesiredAccess", ctypes.c_uint32),
        ("Padding0", ctypes.c_uint32),
        ("ObjectAttributes", ctypes.c_uint64),
        ("PageProtection", ctypes.c_uint32),
        ("AllocationAttributes", ctypes.c_uint32),
        ("Padding1", ctypes.c_uint64),
    ]


class _IoSpaceUnion(ctypes.LittleEndianStructure):
    _fields_: ClassVar = [
        ("BaseAddress", ctypes.c_uint64),
        ("Padding", ctypes.c_uint64 * 3),
    ]


class _CreateUnion(ctypes.Union):
    _fields_: ClassVar = [
        ("Mdl", _MdlUnion),
        ("ContiguousMemory", _ContiguousUnion),
        ("Section", _SectionUnion),
        ("IOSpace", _IoSpaceUnion),
    ]


class CreatePhysicalMemoryObject(ctypes.LittleEndianStructure):
    """DXGKARGCB_CREATE_PHYSICAL_MEMORY_OBJECT, 80 bytes."""

    _anonymous_ = ("u",)
    _fields_: ClassVar = [
        ("hAdapter", ctypes.c_uint64),
        ("Size", ctypes.c_uint64),
        ("Context", ctypes.c_uint64),
        ("Type", ctypes.c_uint32),
        ("CacheType", ctypes.c_uint32),
        ("u", _CreateUnion),
        ("hPhysicalMemoryObject", ctypes.c_uint64),
        ("hAdapterMemoryObject", ctypes.c_uint64),
    ]


class DestroyPhysicalMemoryObject(ctypes.LittleEndianStructure):
    """DXGKARGCB_DESTROY_PHYSICAL_MEMORY_OBJECT, 16 bytes."""

    _fields_: ClassVar = [
        ("hPhysicalMemoryObject", ctypes.c_uint64),
        ("hAdapterMemoryObject", ctypes.c_uint64),
    ]


class OpenPhysicalMemoryObject(ctypes.LittleEndianStructure):
    """DXGKARGCB_OPEN_PHYSICAL_MEMORY_OBJECT, 24 bytes."""

    _fields_: ClassVar = [
        ("hPhysicalMemoryObject", ctypes.c_uint64),
        ("hAdapter", ctypes.c_uint64),
        ("hAdapterMemoryObject", ctypes.c_uint64),
    ]


class ClosePhysicalMemoryObject(ctypes.LittleEndianStructure):
    """DXGKARGCB_CLOSE_PHYSICAL_MEMORY_OBJECT, 8 bytes."""

    _fields_: ClassVar = [("hAdapterMemoryObject", ctypes.c_uint64)]


class MapPhysicalMemory(ctypes.LittleEndianStructure):
    """DXGKARGCB_MAP_PHYSICAL_MEMORY, 40 bytes."""

    _fields_: ClassVar = [
        ("hPhysicalMemoryObject", ctypes.c_uint64),
        ("AccessMode", ctypes.c_uint32),
        ("Padding", ctypes.c_uint32),
        ("Offset", ctypes.c_uint64),
        ("Size", ctypes.c_uint64),
        ("pMappedAddress", ctypes.c_uint64),
    ]


class AllocateAdl(ctypes.LittleEndianStructure):
    """DXGKARGCB_ALLOCATE_ADL, 40 bytes."""

    _fields_: ClassVar = [
        ("hAdapterMemoryObject", ctypes.c_uint64),
        ("Offset", ctypes.c_uint64),
        ("Size", ctypes.c_uint64),
        ("Flags", ctypes.c_uint32),
        ("Padding", ctypes.c_uint32),
        ("pAdl", ctypes.c_uint64),
    ]
