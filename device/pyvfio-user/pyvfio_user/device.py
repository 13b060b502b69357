"""A device: configuration space, BARs, interrupts, DMA; what a device author makes."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

from .capabilities import MsiCapability, MsixCapability
from .dma import DmaPolicy, DmaTable, Mapping
from .feature import Features
from .irq import Irqs, IrqType
from .message_dma import MessageDma
from .migration import Migratable, Migration
from .pci import BARS, ConfigSpace
from .region import Bar, Rom
from .watch import DeviceWatcher

REGIONS = 9  # VFIO_PCI_NUM_REGIONS: six BARs, ROM, configuration space, VGA
ROM_REGION = 6
CONFIG_REGION = 7


class DeviceObserver:
    """What happens to a device.  Called on the protocol thread: be quick.

    The client waits for the answer, with its guest stopped.  Override what
    you need.  Of mappings that came in a row each is told, in order, but the
    table may have the later ones already.
    """

    def connected(self) -> None:
        """A client has finished the handshake."""

    def disconnected(self) -> None:
        """The client has gone; the DMA table and the eventfds are already empty."""

    def reset(self) -> None:
        """The client resets the device; the configuration space already is."""

    def described(self) -> None:
        """The client asks what the device is, for the first time on its connection.

        Whatever is mapped before came when the client was set up.
        """

    def dma_mapped(self, mapping: Mapping) -> None:
        """A range has been mapped."""

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """A range has been unmapped; `removed` mappings lay in it, wholly or in part.

        For UNMAP_ALL the range is the whole space of 2^64 bytes.
        """


class Device:
    """A PCI function for one client at a time.

    `config` and `bars` (by index, 0 to 5; a 64-bit BAR takes two) belong to
    the device from now on.  `trigger` and the two DMA paths, `dma` and
    `message_dma`, may be used from any thread but as said there.
    """

    def __init__(
        self,
        config: ConfigSpace,
        bars: MappingOf[int, Bar],
        *,
        rom: bytes | None = None,
        observer: DeviceObserver | None = None,
        migratable: Migratable | None = None,
        dma_policy: DmaPolicy = "tolerant",
    ) -> None:
        """Put the parts together.  Raises ValueError if they do not fit.

        `rom` is an expansion ROM's image, of at most 128 KiB: QEMU reads it
        in one access.  With a `migratable` the device can be migrated.
        """
        self.config = config
        self.bars = dict(bars)
        self.observer = observer or DeviceObserver()
        self.dma = DmaTable(dma_policy)
        self.message_dma = MessageDma(self.dma.lock, self.dma.dirty)
        self.migration = Migration(config, migratable)
        self.features = Features(self.migration, self.dma.dirty)
        taken: set[int] = set()
        for index, bar in sorted(self.bars.items()):
            slots = {index, index + 1} if bar.is_64bit else {index}
            if taken & slots or not slots <= set(range(BARS)):
                raise ValueError(f"BAR {index} does not fit")
            taken |= slots
            config.place_bar(index, bar)
        self.regions = dict(self.bars)
        if rom is not None:
            region = Rom(rom)
            config.place_rom(region.size)
            self.regions[ROM_REGION] = region
        self.irqs = Irqs(self._irq_counts())

    def watch(self, watcher: DeviceWatcher | None) -> None:
        """Tell `watcher`, or nobody any more, what the device itself does."""
        self.dma.watcher = watcher

    def trigger(self, irq_type: IrqType, vector: int) -> bool:
        """Signal an interrupt; False if the client has set no eventfd for it.

        Never blocks.  Raises LocalProtocolError for a vector that the device
        does not have.
        """
        if self.dma.watcher is not None:
            self.dma.watcher.triggered(irq_type, vector)
        return self.irqs.trigger(irq_type, vector)

    def reset(self) -> None:
        """Reset registers and interrupt state, then tell the observer."""
        self.config.reset()
        self.irqs.reset()
        self.migration.reset()
        self.observer.reset()

    def _irq_counts(self) -> dict[IrqType, int]:
        counts = {IrqType.INTX: int(self.config.interrupt_pin > 0)}
        sizes = [self.bars[index].size if index in self.bars else 0 for index in range(BARS)]
        for _, capability in self.config.capabilities:
            if isinstance(capability, MsixCapability):
                capability.check(sizes)
                counts[IrqType.MSIX] = capability.vectors
            elif isinstance(capability, MsiCapability):
                counts[IrqType.MSI] = capability.vectors
        return counts
