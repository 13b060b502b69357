"""Whether an adapter starts, and how it addresses memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vdxgk.memory.ddi import IommuCaps
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.logical import LogicalAddressSpace
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.objects import Addressing, AddressingMode, LogicalAdapter
from vdxgk.memory.pages import Range

MAX_RESERVED = 1024
"""Reserved regions that a guest may name; real ones have a handful."""


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


def start(request: StartRequest, ram: GuestRam, dma_bits: int) -> LogicalAdapter:
    """The adapter, which has no handle yet.

    [D] If RAM lies above what the GPU can address, and remapping is not
    possible, the adapter does not start.  STATUS_NOT_SUPPORTED then [I].
    """
    if len(request.reserved) > MAX_RESERVED:
        raise invalid(f"{len(request.reserved)} reserved regions: at most {MAX_RESERVED}")
    addressing = address(request, dma_bits, request.mode)
    _check_memory_is_shared(ram, *request.probe)
    remaps = IommuCaps.DMA_REMAPPING_SUPPORTED in request.iommu_caps
    return LogicalAdapter(addressing, request.translated, remaps)


def address(request: StartRequest, dma_bits: int, wanted: AddressingMode | None) -> Addressing:
    """How memory is addressed in a mode, None for the best; refuses as ``start``."""
    if request.highest_visible == 0:
        raise invalid("HighestVisibleAddress is 0")
    reach = min(request.highest_visible, (1 << dma_bits) - 1)
    mode = _mode(request, reach, wanted)
    space = None
    if mode is AddressingMode.LOGICAL:
        first, last = request.aperture
        space = LogicalAddressSpace(first, min(last, reach), request.reserved)
        if space.free_bytes == 0:
            raise invalid(f"aperture {first:#x}-{last:#x} holds no logical address space")
    return Addressing(mode, space)


def _mode(request: StartRequest, reach: int, wanted: AddressingMode | None) -> AddressingMode:
    remapping_possible = (
        request.translated and IommuCaps.DMA_REMAPPING_SUPPORTED in request.iommu_caps
    )
    mode = wanted or (AddressingMode.LOGICAL if remapping_possible else AddressingMode.PHYSICAL)
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
    return mode


def _check_memory_is_shared(ram: GuestRam, gpa: int, value: int) -> None:
    """The guest has written ``value`` at ``gpa``: is that what we see there?"""
    place = ram.locate(gpa)
    if place is None:
        if ram.known:
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
