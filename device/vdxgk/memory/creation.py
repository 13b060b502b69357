"""CreatePhysicalMemoryObject's arguments, checked and turned into an allocation plan.

One class for each type of object.  A plan is made before anything changes,
allocates from the pool or says what the guest must donate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from vdxgk.memory.ddi import (
    MDL_MAX_SIZE,
    SEC_COMMIT,
    CacheType,
    CreatePhysicalMemoryObject,
    MdlFlags,
    PageProtection,
    PhysicalMemoryType,
)
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.pages import (
    ADDRESS_SPACE,
    LARGE_PAGE_SIZE,
    PAGE_SIZE,
    Range,
    align_up,
    is_power_of_two,
    page_aligned,
)
from vdxgk.memory.pool import GuestMemoryPool, Windows

MAX_SIZE = 1 << 40
"""No guest has so much memory: larger sizes fail before any arithmetic with them."""

PHYSICAL_ADDRESSES = 1 << 52
"""x86 has no more (Intel SDM volume 3, 4.1.4)."""


class MoreMemory(Refused):
    """The guest must donate at least ``size`` bytes in [lowest, highest] and call again."""

    def __init__(self, size: int, alignment: int, lowest: int, highest: int) -> None:
        super().__init__(
            NtStatus.MORE_PROCESSING_REQUIRED,
            f"{size:#x} bytes wanted in {lowest:#x}-{highest:#x}",
        )
        self.size = size
        self.alignment = alignment
        self.lowest = lowest
        self.highest = highest


@dataclass(frozen=True, slots=True)
class Plan(ABC):
    """How an object of ``size`` bytes (whole pages) gets its memory."""

    type: ClassVar[PhysicalMemoryType]

    size: int

    @property
    @abstractmethod
    def zero(self) -> bool:
        """Whether its pages must be zero before use."""

    @property
    def committed(self) -> int:
        """Bytes that are promised now and found later."""
        return 0

    @property
    def wraps(self) -> Range | None:
        """Memory that the driver brings, and that must be no RAM."""
        return None

    @property
    def protection(self) -> PageProtection:
        """What user mode may do with it."""
        return PageProtection.READWRITE

    @abstractmethod
    def allocate(self, pool: GuestMemoryPool) -> list[Range]:
        """Take the memory from ``pool``; raises MoreMemory if it has too little."""


@dataclass(frozen=True, slots=True)
class ContiguousPlan(Plan):
    """CONTIGUOUS_MEMORY: as MmAllocateContiguousMemorySpecifyCache [D]."""

    type: ClassVar = PhysicalMemoryType.CONTIGUOUS_MEMORY

    lowest: int
    highest: int
    boundary: int

    @property
    def zero(self) -> bool:
        """Contiguous memory comes uninitialised [D]."""
        return False

    def allocate(self, pool: GuestMemoryPool) -> list[Range]:
        """One run."""
        run = pool.allocate_contiguous(self.size, self.lowest, self.highest, self.boundary)
        if run is None:
            raise MoreMemory(
                align_up(self.size, LARGE_PAGE_SIZE), LARGE_PAGE_SIZE, self.lowest, self.highest
            )
        return [run]


@dataclass(frozen=True, slots=True)
class MdlPlan(Plan):
    """MDL: as MmAllocatePagesForMdlEx with MM_ALLOCATE_FULLY_REQUIRED [D for the older callback].

    Pages lie scattered, in random order, unless MM_ALLOCATE_PREFER_CONTIGUOUS
    or MM_ALLOCATE_REQUIRE_CONTIGUOUS_CHUNKS asks for runs.
    """

    type: ClassVar = PhysicalMemoryType.MDL

    windows: Windows
    flags: MdlFlags

    SCATTER = 2
    """A scattered object takes one page in so many: the others stay as canaries."""

    @property
    def zero(self) -> bool:
        """Pages are zeroed unless MM_DONT_ZERO_ALLOCATION [D]."""
        return MdlFlags.DONT_ZERO_ALLOCATION not in self.flags

    def allocate(self, pool: GuestMemoryPool) -> list[Range]:
        """All pages or none."""
        if MdlFlags.REQUIRE_CONTIGUOUS_CHUNKS in self.flags:
            runs = self._allocate_chunks(pool)
            wanted = self.size
        elif MdlFlags.PREFER_CONTIGUOUS in self.flags:
            runs = pool.allocate_runs(self.size, self.windows)
            wanted = self.size
        else:
            wanted = self.SCATTER * self.size
            runs = None
            if pool.free_bytes >= wanted:
                runs = pool.allocate_scattered(self.size, self.windows)
        if runs is None:
            raise MoreMemory(
                align_up(wanted, LARGE_PAGE_SIZE),
                LARGE_PAGE_SIZE,
                self.windows.low,
                self._highest,
            )
        return runs

    @property
    def _highest(self) -> int:
        """Above the first window lie others, unless SkipBytes is 0 or the size of chunks."""
        if self.windows.skip and MdlFlags.REQUIRE_CONTIGUOUS_CHUNKS not in self.flags:
            return ADDRESS_SPACE - 1
        return self.windows.high

    def _allocate_chunks(self, pool: GuestMemoryPool) -> list[Range] | None:
        skip = self.windows.skip
        chunk, alignment = (skip, skip) if skip else (self.size, PAGE_SIZE)
        # With chunks, SkipBytes is their size; the search stays in the first window.
        window = Windows(self.windows.low, self.windows.high)
        runs: list[Range] = []
        for _ in range(self.size // chunk):
            run = pool.allocate_aligned(chunk, alignment, window)
            if run is None:
                pool.free(runs)
                return None
            runs.append(run)
        return runs


@dataclass(frozen=True, slots=True)
class SectionPlan(Plan):
    """SECTION: as ZwCreateSection with SEC_COMMIT, backed by the page file [D].

    Committed at creation, but no page is taken before ``back``.
    """

    type: ClassVar = PhysicalMemoryType.SECTION

    page_protection: PageProtection

    @property
    def zero(self) -> bool:
        """A new page of the page file is zero."""
        return True

    @property
    def committed(self) -> int:
        """All of it."""
        return self.size

    @property
    def protection(self) -> PageProtection:
        """As asked for."""
        return self.page_protection

    def allocate(self, pool: GuestMemoryPool) -> list[Range]:
        """Nothing yet."""
        return []


def back(size: int, pool: GuestMemoryPool) -> list[Range]:
    """The pages of a section that is used for the first time; raises MoreMemory."""
    return MdlPlan(size, Windows(), MdlFlags(0)).allocate(pool)


@dataclass(frozen=True, slots=True)
class IoSpacePlan(Plan):
    """IO_SPACE: a range of the driver's, such as a BAR [D]."""

    type: ClassVar = PhysicalMemoryType.IO_SPACE

    base: int

    @property
    def zero(self) -> bool:
        """It is not ours to change."""
        return False

    @property
    def wraps(self) -> Range:
        """The range."""
        return Range(self.base, self.size)

    def allocate(self, pool: GuestMemoryPool) -> list[Range]:
        """The range, and nothing of ``pool``."""
        return [self.wraps]


def plan(args: CreatePhysicalMemoryObject) -> Plan:
    """Check everything that can be checked without looking at memory.

    Raises Refused: STATUS_INVALID_PARAMETER for bad arguments,
    STATUS_NO_MEMORY for what no memory could satisfy; for sections
    STATUS_SECTION_TOO_BIG and STATUS_INVALID_PAGE_PROTECTION [D for
    ZwCreateSection].
    """
    planner = _PLANNERS.get(args.Type)
    if planner is None:
        raise invalid(f"Type {args.Type} is not a DXGK_PHYSICAL_MEMORY_TYPE")
    if args.CacheType not in _CACHE_TYPES:
        raise invalid(f"CacheType {args.CacheType} is not a DXGK_MEMORY_CACHING_TYPE")
    size = args.Size
    if size == 0:
        raise invalid("Size is 0")
    if size > MAX_SIZE:
        status = _TOO_LARGE.get(args.Type, NtStatus.NO_MEMORY)
        raise Refused(status, f"no guest has {size:#x} bytes")
    return planner(args, align_up(size, PAGE_SIZE))


def _plan_contiguous(args: CreatePhysicalMemoryObject, size: int) -> Plan:
    bounds = args.ContiguousMemory
    lowest, highest = bounds.LowestAcceptableAddress, bounds.HighestAcceptableAddress
    boundary = bounds.BoundaryAddressMultiple
    if lowest > highest:
        raise invalid(f"LowestAcceptableAddress {lowest:#x} is above the highest, {highest:#x}")
    if boundary and not (is_power_of_two(boundary) and boundary >= PAGE_SIZE):
        raise invalid(f"BoundaryAddressMultiple {boundary:#x} is not 0 or a power of two of pages")
    if boundary and size > boundary:
        raise Refused(NtStatus.NO_MEMORY, f"{size:#x} bytes must cross a multiple of {boundary:#x}")
    if highest - lowest + 1 < size:
        raise Refused(NtStatus.NO_MEMORY, f"{size:#x} bytes do not fit {lowest:#x}-{highest:#x}")
    return ContiguousPlan(size, lowest, highest, boundary)


def _plan_mdl(args: CreatePhysicalMemoryObject, size: int) -> Plan:
    mdl = args.Mdl
    if mdl.LowAddress > mdl.HighAddress:
        raise invalid(f"LowAddress {mdl.LowAddress:#x} is above HighAddress {mdl.HighAddress:#x}")
    if not page_aligned(mdl.SkipBytes):
        raise invalid(f"SkipBytes {mdl.SkipBytes:#x} is not a page multiple")
    if size > MDL_MAX_SIZE:
        raise invalid(f"Size {size:#x} is above the limit of an MDL, {MDL_MAX_SIZE:#x}")
    if mdl.Flags & ~sum(MdlFlags):
        raise invalid(f"Flags {mdl.Flags:#x} of the MDL are not defined")
    flags = MdlFlags(mdl.Flags)
    chunks = MdlFlags.REQUIRE_CONTIGUOUS_CHUNKS in flags
    if MdlFlags.FAST_LARGE_PAGES in flags and not (
        chunks and mdl.SkipBytes and mdl.SkipBytes % LARGE_PAGE_SIZE == 0
    ):
        raise invalid("FAST_LARGE_PAGES needs REQUIRE_CONTIGUOUS_CHUNKS and large-page SkipBytes")
    if MdlFlags.AND_HOT_REMOVE in flags and MdlFlags.FULLY_REQUIRED in flags:
        raise invalid("AND_HOT_REMOVE and FULLY_REQUIRED exclude each other")
    if chunks and mdl.SkipBytes and (not is_power_of_two(mdl.SkipBytes) or size % mdl.SkipBytes):
        raise invalid(f"Size {size:#x} is not whole chunks of a power of two {mdl.SkipBytes:#x}")
    return MdlPlan(size, Windows(mdl.LowAddress, mdl.HighAddress, mdl.SkipBytes), flags)


def _plan_section(args: CreatePhysicalMemoryObject, size: int) -> Plan:
    section = args.Section
    try:
        protection = PageProtection(section.PageProtection)
    except ValueError:
        raise Refused(
            NtStatus.INVALID_PAGE_PROTECTION,
            f"PageProtection {section.PageProtection:#x} is not one that a section can have",
        ) from None
    # [I] The documentation calls the attributes fixed: 0 stands for the one that there is.
    if section.AllocationAttributes not in (0, SEC_COMMIT):
        raise invalid(
            f"AllocationAttributes {section.AllocationAttributes:#x} of a section, not SEC_COMMIT"
        )
    if args.CacheType == CacheType.NON_CACHED:
        raise invalid("a section is cached or write-combined, never non-cached")
    return SectionPlan(size, protection)


def _plan_io_space(args: CreatePhysicalMemoryObject, size: int) -> Plan:
    base = args.IOSpace.BaseAddress
    if not page_aligned(base, args.Size):
        raise invalid(f"IO space {base:#x}+{args.Size:#x} is not whole pages")
    if base + size > PHYSICAL_ADDRESSES:
        raise invalid(f"IO space {base:#x}+{size:#x} is beyond physical addresses")
    return IoSpacePlan(size, base)


_CACHE_TYPES = frozenset(CacheType)
_TOO_LARGE: dict[int, NtStatus] = {
    PhysicalMemoryType.SECTION: NtStatus.SECTION_TOO_BIG,
    PhysicalMemoryType.IO_SPACE: NtStatus.INVALID_PARAMETER,
}
_PLANNERS: dict[int, Callable[[CreatePhysicalMemoryObject, int], Plan]] = {
    PhysicalMemoryType.CONTIGUOUS_MEMORY: _plan_contiguous,
    PhysicalMemoryType.MDL: _plan_mdl,
    PhysicalMemoryType.SECTION: _plan_section,
    PhysicalMemoryType.IO_SPACE: _plan_io_space,
}
