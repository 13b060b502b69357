"""The PCI function: identity, BARs, capabilities."""

from __future__ import annotations

from dataclasses import dataclass

from pyvfio_user import ConfigSpace, MsiCapability, MsixCapability, VendorCapability
from vdxgk.channel import layout

VENDOR_ID = 0x1234
DEVICE_ID = 0x1111
"""QEMU's stdvga and bochs-display: stock firmware and drivers know it."""
REVISION = 2
CLASS_CODE = 0x038000
"""Display controller, other: not VGA compatible (PCI Code and ID Assignment)."""
SUBSYSTEM_VENDOR_ID = 0x1AF4
SUBSYSTEM_ID = 0x1100

FRAMEBUFFER_BAR = 0
DISPLAY_BAR = 2
CHANNEL_BAR = 4
CHANNEL_BAR_SIZE = 4 << 20
REGISTERS_OFFSET = 0
MSIX_TABLE_OFFSET = 0x1000
MSIX_PBA_OFFSET = 0x1800
SHARED_OFFSET = 0x10000
SHARED_SIZE = CHANNEL_BAR_SIZE - SHARED_OFFSET


@dataclass(frozen=True, slots=True)
class Link:
    """A function's place in its chain of linked adapters: of ``count``, the first leads."""

    index: int = 0
    count: int = 1
    chain: int = 0
    """The same number in all functions of a chain."""


def config_space(dma_bits: int, link: Link, *, msi: bool = False) -> ConfigSpace:
    """The function's configuration space; ``dma_bits`` and ``msi`` as in AdapterOptions."""
    config = ConfigSpace(
        VENDOR_ID,
        DEVICE_ID,
        CLASS_CODE,
        revision=REVISION,
        subsystem_vendor_id=SUBSYSTEM_VENDOR_ID,
        subsystem_id=SUBSYSTEM_ID,
    )
    config.add_capability(
        MsiCapability(layout.VECTORS)
        if msi
        else MsixCapability(
            vectors=layout.VECTORS,
            table_bar=CHANNEL_BAR,
            table_offset=MSIX_TABLE_OFFSET,
            pba_bar=CHANNEL_BAR,
            pba_offset=MSIX_PBA_OFFSET,
        )
    )
    locator = layout.PciCap(
        version=layout.PCI_CAP_VERSION,
        magic=layout.MAGIC,
        bar=CHANNEL_BAR,
        dma_bits=dma_bits,
        link_index=link.index,
        link_count=link.count,
        chain=link.chain,
        registers_offset=REGISTERS_OFFSET,
        shared_offset=SHARED_OFFSET,
        shared_size=SHARED_SIZE,
    )
    # The library writes ID, next pointer and length.
    config.add_capability(VendorCapability(bytes(locator)[3:]))
    return config
