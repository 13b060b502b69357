"""A guest for unit tests: the conformance vectors' world, and arguments by hand."""

from __future__ import annotations

from vdxgk.conformance.worlds.world import (
    GIB,
    HIGH_BASE,
    LOW_RAM,
    File,
    Piece,
    Report,
    Table,
    World,
)
from vdxgk.memory.ddi import CreatePhysicalMemoryObject, PhysicalMemoryType

__all__ = ["GIB", "HIGH_BASE", "LOW_RAM", "File", "Piece", "Report", "Table", "World"]


def contiguous(
    adapter: int, size: int, low: int = 0, high: int = (1 << 64) - 1, boundary: int = 0
) -> CreatePhysicalMemoryObject:
    args = CreatePhysicalMemoryObject(
        hAdapter=adapter, Size=size, Type=PhysicalMemoryType.CONTIGUOUS_MEMORY, CacheType=1
    )
    args.ContiguousMemory.LowestAcceptableAddress = low
    args.ContiguousMemory.HighestAcceptableAddress = high
    args.ContiguousMemory.BoundaryAddressMultiple = boundary
    return args


def mdl(
    adapter: int,
    size: int,
    flags: int = 0,
    low: int = 0,
    high: int = (1 << 64) - 1,
    skip: int = 0,
) -> CreatePhysicalMemoryObject:
    args = CreatePhysicalMemoryObject(
        hAdapter=adapter, Size=size, Type=PhysicalMemoryType.MDL, CacheType=1
    )
    args.Mdl.LowAddress = low
    args.Mdl.HighAddress = high
    args.Mdl.SkipBytes = skip
    args.Mdl.Flags = flags
    return args


def section(
    adapter: int, size: int, protection: int = 4, cache: int = 1, attributes: int = 0x08000000
) -> CreatePhysicalMemoryObject:
    args = CreatePhysicalMemoryObject(
        hAdapter=adapter, Size=size, Type=PhysicalMemoryType.SECTION, CacheType=cache
    )
    args.Section.PageProtection = protection
    args.Section.AllocationAttributes = attributes
    return args


def io_space(adapter: int, base: int, size: int) -> CreatePhysicalMemoryObject:
    args = CreatePhysicalMemoryObject(
        hAdapter=adapter, Size=size, Type=PhysicalMemoryType.IO_SPACE, CacheType=0
    )
    args.IOSpace.BaseAddress = base
    return args
