"""The register page: VDXGK_REG_* of vdxgk_channel.h."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vdxgk.channel import layout
from vdxgk.faults import FaultRecord

_SCANOUT = range(layout.REG_SCANOUT_CONTROL, layout.REG_SCANOUT_CURSOR_POSITION + 4)


class ScanoutRegisters(Protocol):
    """What answers for VDXGK_REG_SCANOUT_*."""

    def read_register(self, offset: int) -> int:
        """A register's value."""

    def write_register(self, offset: int, value: int) -> None:
        """Take note of a write."""


class RegisterPage:
    """Every access is trapped, and comes here on the protocol's thread.

    Handlers only note what is to be done: work happens elsewhere.
    """

    def __init__(
        self,
        faults: FaultRecord,
        scanout: ScanoutRegisters,
        *,
        features: int,
        dma_bits: int,
        framebuffer: int,
        on_reset: Callable[[], None],
        on_channel_doorbell: Callable[[], None],
        on_engine_doorbell: Callable[[], None],
    ) -> None:
        self.status = 0
        """VDXGK_STATUS_*."""
        self.accesses = 0
        """Reads and writes since the server started: each of them stops the guest's processor."""
        self._faults = faults
        self._scanout = scanout
        constants = {
            layout.REG_MAGIC: layout.MAGIC,
            layout.REG_VERSION: layout.VERSION,
            layout.REG_FEATURES: features,
            layout.REG_DMA_BITS: dma_bits,
            layout.REG_FRAMEBUFFER_PAGES: framebuffer >> 12,
        }
        self._constants = {at: value.to_bytes(4, "little") for at, value in constants.items()}
        self._on_reset = on_reset
        self._doorbells = {
            layout.REG_CHANNEL_DOORBELL: on_channel_doorbell,
            layout.REG_ENGINE_DOORBELL: on_engine_doorbell,
        }

    def read(self, offset: int, count: int) -> bytes:
        """Answer an access of ``count`` bytes; outside of the page, zeroes (PBA: none pending)."""
        self.accesses += 1
        if count == 4 and offset in self._constants:
            return self._constants[offset]
        if offset >= layout.REG_PAGE_SIZE:
            return bytes(count)
        if count != 4 or offset % 4:
            return b"\xff" * count
        return self._value(offset).to_bytes(4, "little")

    def _value(self, offset: int) -> int:
        if offset == layout.REG_STATUS:
            return self.status
        if offset in _SCANOUT:
            return self._scanout.read_register(offset)
        first = self._faults.first
        if offset == layout.REG_FAULT_COUNT:
            return self._faults.count
        if offset == layout.REG_FAULT_INFO:
            return first.info if first else 0
        if offset == layout.REG_FAULT_ADDRESS_LOW:
            return first.address & 0xFFFFFFFF if first else 0
        if offset == layout.REG_FAULT_ADDRESS_HIGH:
            return first.address >> 32 if first else 0
        return 0

    def write(self, offset: int, data: bytes) -> None:
        """Accept an access; what no register takes is dropped."""
        self.accesses += 1
        if len(data) != 4 or offset % 4:
            return
        if offset in self._doorbells:
            if self.status & layout.STATUS_READY:
                self._doorbells[offset]()
            return
        value = int.from_bytes(data, "little")
        if offset == layout.REG_CONTROL and value & layout.CONTROL_RESET:
            self.status = 0
            self._on_reset()
        elif offset in _SCANOUT:
            if self.status & layout.STATUS_READY:
                self._scanout.write_register(offset, value)
        elif offset == layout.REG_FAULT_INFO and value & layout.FAULT_VALID:
            self._faults.clear()
