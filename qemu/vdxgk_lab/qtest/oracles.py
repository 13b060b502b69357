"""QEMU's own DMA-capable test devices: a second opinion from behind the same IOMMU.

Registers: QEMU's docs/specs/iommu-testdev.rst and docs/specs/edu.rst.
"""

from __future__ import annotations

from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY, MmioWindow, PciFunction


class IommuTestDevice:
    """`iommu-testdev`: writes a pattern by logical address, reads it back by physical address."""

    _TRIGGER, _IOVA_LOW, _IOVA_HIGH, _LENGTH, _RESULT = 0x00, 0x04, 0x08, 0x0C, 0x10
    _DOORBELL, _ATTRIBUTES, _GPA_LOW, _GPA_HIGH = 0x14, 0x18, 0x1C, 0x20
    PATTERN = (0x12345678).to_bytes(4, "little")

    def __init__(self, qtest: QtestClient, function: PciFunction, window: MmioWindow) -> None:
        """Place its BAR and enable it."""
        self._qtest = qtest
        self._base = function.place_bar(0, window)
        function.command(COMMAND_MEMORY | COMMAND_BUS_MASTER)

    def run(self, logical: int, physical: int) -> bool:
        """Whether four bytes written at `logical` arrived at `physical`."""
        for register, value in (
            (self._IOVA_LOW, logical & 0xFFFF_FFFF),
            (self._IOVA_HIGH, logical >> 32),
            (self._LENGTH, 4),
            (self._ATTRIBUTES, 0),
            (self._GPA_LOW, physical & 0xFFFF_FFFF),
            (self._GPA_HIGH, physical >> 32),
            (self._DOORBELL, 1),
        ):
            self._qtest.store(self._base + register, value, 4)
        self._qtest.load(self._base + self._TRIGGER, 4)
        return self._qtest.load(self._base + self._RESULT, 4) == 0


class Edu:
    """`edu`: copies between guest memory and a buffer of 4 KiB; emits 28-bit addresses."""

    _SOURCE, _DESTINATION, _COUNT, _COMMAND = 0x80, 0x88, 0x90, 0x98
    _START, _TO_MEMORY = 1, 2
    _BUFFER = 0x40000
    _TIMER_NANOSECONDS = 200_000_000  # it transfers 100 ms after the command

    def __init__(self, qtest: QtestClient, function: PciFunction, window: MmioWindow) -> None:
        """Place its BAR and enable it."""
        self._qtest = qtest
        self._base = function.place_bar(0, window)
        function.command(COMMAND_MEMORY | COMMAND_BUS_MASTER)

    def copy(self, source: int, destination: int, size: int) -> None:
        """Copy `size` bytes from one logical address to the other, through the buffer."""
        self._transfer(source, self._BUFFER, size, 0)
        self._transfer(self._BUFFER, destination, size, self._TO_MEMORY)

    def _transfer(self, source: int, destination: int, size: int, direction: int) -> None:
        self._qtest.store(self._base + self._SOURCE, source, 8)
        self._qtest.store(self._base + self._DESTINATION, destination, 8)
        self._qtest.store(self._base + self._COUNT, size, 8)
        self._qtest.store(self._base + self._COMMAND, self._START | direction, 8)
        self._qtest.execute("clock_step", self._TIMER_NANOSECONDS)
        self._qtest.wait_for(
            lambda: not self._qtest.load(self._base + self._COMMAND, 8) & self._START,
            "the edu device ends its transfer",
        )
