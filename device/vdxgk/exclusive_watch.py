"""Watches that a function does no DMA while it must not."""

from __future__ import annotations

from collections.abc import Callable

from pyvfio_user import Access, Device, DmaFault, IrqType


class ExclusiveWatch:
    """Sees every access to guest memory, on either path, while it is open.

    ``on_violation`` is told of each: address, bytes, whether it writes.  It is
    called on the thread that makes the access.  A pyvfio_user DeviceWatcher.
    """

    def __init__(self, device: Device, on_violation: Callable[[int, int, bool], None]) -> None:
        self._device = device
        self._on_violation = on_violation
        self.violations = 0
        """Since it was opened last."""

    def open(self) -> None:
        """From now on there must be none; the one under way ends first."""
        self.violations = 0
        with self._device.dma.lock:
            self._device.watch(self)
        self._device.message_dma.on_access = self.accessed

    def close(self) -> None:
        """There may be again."""
        self._device.watch(None)
        self._device.message_dma.on_access = None

    def accessed(self, iova: int, size: int, wanted: Access) -> None:
        """One that must not be."""
        self.violations += 1
        self._on_violation(iova, size, bool(wanted & Access.WRITE))

    def refused(self, iova: int, size: int, fault: DmaFault) -> None:
        """One that must not even be tried."""
        self.accessed(iova, size, fault.access)

    def unmapped(self, iova: int, size: int) -> None:
        """That is what happens meanwhile."""

    def triggered(self, irq_type: IrqType, vector: int) -> None:
        """Interrupts are no access to memory here."""
