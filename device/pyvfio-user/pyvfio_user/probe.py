"""What a client can find out about a device, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from . import pci, wire
from .client import Client, RegionInfo
from .device import CONFIG_REGION
from .irq import INFO_AUTOMASKED, INFO_MASKABLE, INFO_NORESIZE, IrqType
from .wire import DEVICE_FLAGS_RESET

REGION_NAMES = {6: "ROM", CONFIG_REGION: "configuration space", 8: "VGA"}
CAPABILITY_NAMES = {
    0x01: "power management",
    0x05: "MSI",
    0x09: "vendor-specific",
    0x10: "PCI Express",
    0x11: "MSI-X",
}


def describe(client: Client, capabilities: Mapping[str, object]) -> Iterator[str]:
    """Yield lines about the device behind a client that has negotiated.

    Raises RemoteProtocolError, ConnectionLost or TimeoutError.
    """
    flags, regions, irqs = client.device_info()
    config_region = client.region_info(CONFIG_REGION)
    config = client.region_read(CONFIG_REGION, 0, min(config_region.size, pci.CONFIG_SIZE))
    if len(config) < pci.FIRST_CAPABILITY:
        yield f"no PCI configuration space: {len(config)} bytes"
        return
    yield _identity(config)
    offered = ", ".join(f"{key} {value}" for key, value in capabilities.items()) or "nothing"
    yield f"  protocol: {offered}"
    yield f"  reset: {'yes' if flags & DEVICE_FLAGS_RESET else 'no'}"
    for index in range(min(regions, 64)):
        info = client.region_info(index)
        if info.descriptor is not None:
            os.close(info.descriptor)
        if info.size:
            yield f"  {REGION_NAMES.get(index, f'BAR {index}')}: {_region(index, info, config)}"
    for index in range(min(irqs, 64)):
        irq_flags, count = client.irq_info(index)
        if count:
            yield f"  {_irq(index, irq_flags, count)}"
    for offset, capability in _capabilities(config):
        name = CAPABILITY_NAMES.get(capability, "unknown")
        yield f"  capability at {offset:#04x}: {name} ({capability:#04x})"


def _identity(config: bytes) -> str:
    def number(offset: int, size: int) -> int:
        return int.from_bytes(config[offset : offset + size], "little")

    text = f"{number(pci.VENDOR_ID, 2):04x}:{number(pci.DEVICE_ID, 2):04x}"
    text += f" class {number(pci.CLASS_CODE, 3):06x} rev {number(pci.REVISION_ID, 1):02x}"
    subsystem = number(pci.SUBSYSTEM_VENDOR_ID, 2), number(pci.SUBSYSTEM_ID, 2)
    return text + (f" subsystem {subsystem[0]:04x}:{subsystem[1]:04x}" if any(subsystem) else "")


def _region(index: int, info: RegionInfo, config: bytes) -> str:
    words = [_size(info.size)]
    if index < pci.BARS:
        low = config[pci.BAR0 + 4 * index]
        words.append("I/O ports" if low & 1 else "64-bit" if low & 4 else "32-bit")
        if low & 8 and not low & 1:
            words.append("prefetchable")
    if info.flags & wire.REGION_MMAP:
        areas = [(0, info.size)] if info.areas is None else info.areas
        words.append("mapped " + " ".join(f"{start:#x}+{_size(size)}" for start, size in areas))
    return ", ".join(words)


def _irq(index: int, flags: int, count: int) -> str:
    name = IrqType(index).name if index < len(IrqType) else f"interrupt type {index}"
    names = {
        INFO_MASKABLE: "maskable",
        INFO_AUTOMASKED: "automasked",
        INFO_NORESIZE: "set up as a whole",
    }
    words = [f"{count} vector{'s' if count > 1 else ''}"]
    words += [word for bit, word in names.items() if flags & bit]
    return f"{name}: {', '.join(words)}"


def _capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """Walk the list; a hostile one may be a ring."""
    seen: set[int] = set()
    offset = config[pci.CAPABILITIES_POINTER] & ~3
    while pci.FIRST_CAPABILITY <= offset < len(config) - 1 and offset not in seen:
        seen.add(offset)
        yield offset, config[offset]
        offset = config[offset + 1] & ~3


def _size(size: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and not size % unit:
            return f"{size // unit} {name}"
    return f"{size} bytes"
