"""Watching what a device itself does: for tests of drivers, not for devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .errors import Access, DmaFault
    from .irq import IrqType


class DeviceWatcher(Protocol):
    """Hears of every access by descriptor, unmap and interrupt; see Device.watch.

    Called on the thread that does it; for DMA with the table's lock held, so
    that accesses and changes of the table are heard of in their order.
    """

    def accessed(self, iova: int, size: int, wanted: Access) -> None:
        """An access was granted, and begins."""

    def refused(self, iova: int, size: int, fault: DmaFault) -> None:
        """An access was refused as a whole."""

    def unmapped(self, iova: int, size: int) -> None:
        """A range was taken away, of which something was mapped."""

    def triggered(self, irq_type: IrqType, vector: int) -> None:
        """The device is about to signal an interrupt."""
