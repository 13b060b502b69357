"""A guest, its RAM and its IOMMU, small enough for a unit test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from vdxgk.memory.backend import Backend, Quotas, StartRequest
from vdxgk.memory.creation import MoreMemory
from vdxgk.memory.ddi import Bugcheck, CreatePhysicalMemoryObject, IommuCaps
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.objects import (
    AddressDescriptorList,
    AddressingMode,
    LogicalAdapter,
    PhysicalMemoryObject,
    WantedMapping,
)
from vdxgk.memory.pages import LARGE_PAGE_SIZE, PAGE_SIZE, Range
from vdxgk.memory.remapping import RemapFailure

T = TypeVar("T")

GIB = 1 << 30
LOW_RAM = 2 * GIB
HIGH_BASE = 4 * GIB


class File:
    """A backing file of which only written bytes exist."""

    def __init__(self, number: int = 1) -> None:
        self.identity = (0, number)
        self.bytes: dict[int, int] = {}
        self.references = 1

    def read(self, offset: int, size: int) -> bytes:
        """Zeroes where nothing was written."""
        return bytes(self.bytes.get(offset + i, 0) for i in range(size))

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes."""
        self.bytes.update({offset + i: byte for i, byte in enumerate(data)})

    def release(self) -> None:
        """Count one reference less."""
        self.references -= 1


@dataclass
class Piece:
    """One page, announced."""

    iova: int
    size: int
    access: int
    backing: File | None
    offset: int


class Table:
    """What the hypervisor announced, page by page."""

    def __init__(self) -> None:
        self.pages: dict[int, Piece] = {}

    def map(self, iova: int, size: int, backing: File | None, offset: int, access: int = 3) -> None:
        """Announce a mapping."""
        for into in range(0, size, PAGE_SIZE):
            self.pages[iova + into] = Piece(iova + into, PAGE_SIZE, access, backing, offset + into)

    def unmap(self, iova: int, size: int) -> None:
        """Take a range away."""
        for into in range(0, size, PAGE_SIZE):
            self.pages.pop(iova + into, None)

    def pieces(self, iova: int, size: int) -> list[Piece]:
        """As the DMA table answers."""
        pages = range(iova, iova + size, PAGE_SIZE)
        return [self.pages[page] for page in pages if page in self.pages]


@dataclass
class Report:
    """A reporter that remembers."""

    failures: list[tuple[int, RemapFailure]] = field(default_factory=list)
    bugchecks: list[int] = field(default_factory=list)
    windows: list[bool] = field(default_factory=list)
    surpluses: int = 0

    def remap_failure(self, adl: int, failure: RemapFailure) -> None:
        """Remember it."""
        self.failures.append((adl, failure))

    def bugcheck(self, code: Bugcheck, parameter1: int, reason: str) -> None:
        """Remember its first parameter."""
        assert code == Bugcheck.VIDEO_DXGKRNL_SYSMM_FATAL_ERROR
        self.bugchecks.append(int(parameter1))

    def exclusive_access(self, begun: bool) -> None:
        """Remember it."""
        self.windows.append(begun)

    def memory_surplus(self) -> None:
        """Count it."""
        self.surpluses += 1


class World:
    """A backend, and what a correct shim does for it."""

    def __init__(self, *, dma_bits: int = 32, quotas: Quotas | None = None) -> None:
        self.file = File()
        self.ram = GuestRam()
        self.ram.learn(0, LOW_RAM, self.file, 0)
        self.ram.learn(HIGH_BASE, 4 * GIB, self.file, LOW_RAM)
        self.table = Table()
        self.report = Report()
        self.backend = Backend(self.table, self.ram, self.report, dma_bits=dma_bits, quotas=quotas)
        self._blocks = self._fresh_blocks()

    def _fresh_blocks(self) -> Iterator[Range]:
        """2 MiB blocks above 4 GiB; every third is left out, so that few adjoin."""
        base = HIGH_BASE
        while base < HIGH_BASE + 4 * GIB:
            yield Range(base, LARGE_PAGE_SIZE)
            yield Range(base + LARGE_PAGE_SIZE, LARGE_PAGE_SIZE)
            base += 3 * LARGE_PAGE_SIZE

    def start(
        self,
        *,
        mode: AddressingMode | None = None,
        translated: bool = True,
        caps: IommuCaps = IommuCaps.DMA_REMAPPING_SUPPORTED,
        highest_visible: int = (1 << 32) - 1,
        highest_ram: int = 8 * GIB - 1,
        reserved: list[Range] | None = None,
    ) -> LogicalAdapter:
        """Start an adapter; the defaults are a 32-bit GPU in logical mode."""
        self.file.write(LOW_RAM, (0x1122334455667788).to_bytes(8, "little"))
        return self.backend.start_adapter(
            StartRequest(
                highest_visible=highest_visible,
                iommu_caps=caps,
                translated=translated,
                highest_ram=highest_ram,
                aperture=(0, (1 << 48) - 1),
                probe=(HIGH_BASE, 0x1122334455667788),
                mode=mode,
                reserved=reserved or [],
            )
        )

    def create(self, args: CreatePhysicalMemoryObject, rounds: int = 64) -> PhysicalMemoryObject:
        """Create, donating what is asked for."""
        return self.donating(lambda: self.backend.create(args), rounds)[0]

    def donating(self, call: Callable[[], T], rounds: int = 64) -> T:
        """Make a call, donating what it asks for."""
        for _ in range(rounds):
            try:
                return call()
            except MoreMemory as more:
                taken = 0
                while taken < more.size:
                    block = next(self._blocks)
                    self.backend.donate([block])
                    taken += block.size
        raise AssertionError("the backend is never content")

    def map(self, mapping: WantedMapping, access: int = 3) -> None:
        """What the guest's IOMMU and the hypervisor do."""
        place = self.ram.locate(mapping.physical)
        assert place is not None
        assert isinstance(place.backing, File)
        self.table.map(mapping.logical, mapping.size, place.backing, place.offset, access)

    def map_all(self, adl: AddressDescriptorList) -> None:
        """Map all of a list."""
        for mapping in adl.mappings:
            self.map(mapping)

    def unmap_all(self, adl: AddressDescriptorList) -> None:
        """Unmap all of a list."""
        for mapping in adl.mappings:
            self.table.unmap(mapping.logical, mapping.size)
