"""The device under the driver: it adds one to every byte of a buffer.

A write of its number to START begins a job: it reads LENGTH bytes at SOURCE,
writes the result at DESTINATION, a completion record at RECORD, and interrupts.
It has 28 address lines: of an address the rest is not driven, as in real
hardware, and nobody is told.
"""

from __future__ import annotations

import contextlib
import struct
from concurrent.futures import ThreadPoolExecutor

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    DeviceObserver,
    DmaFault,
    IrqType,
    MsixCapability,
    Register,
    RegisterBlock,
)

ADDRESS_BITS = 28
LONGEST = 1 << 16

SOURCE, DESTINATION, RECORD, LENGTH, START = 0x00, 0x08, 0x10, 0x18, 0x1C
DONE, FAILED = 1, 2
RECORD_FORMAT = struct.Struct("<II")  # job number, DONE or FAILED

_ALL64 = (1 << 64) - 1
_INCREMENT = bytes((value + 1) % 256 for value in range(256))


class Incrementer(DeviceObserver):
    """The device; `device` is what a server serves."""

    def __init__(self) -> None:
        self.registers = RegisterBlock(
            [
                Register(SOURCE, 8, writable=_ALL64, sizes=(4, 8)),
                Register(DESTINATION, 8, writable=_ALL64, sizes=(4, 8)),
                Register(RECORD, 8, writable=_ALL64, sizes=(4, 8)),
                Register(LENGTH, writable=LONGEST - 1),
                Register(START, on_write=self._start),
            ]
        )
        config = ConfigSpace(0x1234, 0x1ACC, 0xFF0000)
        config.add_capability(MsixCapability(1, 2, 0, 2, 0x800))
        bars = {0: Bar(0x1000, handler=self.registers), 2: Bar(0x1000)}
        self.device = Device(config, bars, observer=self)
        self._worker = ThreadPoolExecutor(1, "incrementer")

    def reset(self) -> None:
        """Back to power-on."""
        self.registers.reset()

    def close(self) -> None:
        """Let the last job end."""
        self._worker.shutdown()

    def _start(self, job: int) -> None:
        addresses = (self.registers[register].value for register in (SOURCE, DESTINATION, RECORD))
        lines = (1 << ADDRESS_BITS) - 1
        self._worker.submit(
            self._run, job, self.registers[LENGTH].value, *(a & lines for a in addresses)
        )

    def _run(self, job: int, length: int, source: int, destination: int, record: int) -> None:
        if not self.device.config.bus_master_enabled:
            return
        dma = self.device.dma
        try:
            status = DONE
            dma.write(destination, dma.read(source, length).translate(_INCREMENT))
        except DmaFault:
            status = FAILED
        with contextlib.suppress(DmaFault):
            dma.write(record, RECORD_FORMAT.pack(job, status))
        self.device.trigger(IrqType.MSIX, 0)
