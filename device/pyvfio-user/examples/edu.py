"""QEMU's educational device (docs/specs/edu.rst): registers, interrupts, DMA.

Two differences: interrupts are MSI-X (table and pending bits in BAR 2), and a
transfer that the device cannot do is logged and dropped.

python edu.py /tmp/edu.sock
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    DeviceObserver,
    DmaFault,
    DmaTable,
    FaultReason,
    IrqType,
    MessageDma,
    MsixCapability,
    Register,
    RegisterBlock,
    Server,
    VfioUserError,
)

ALL32, ALL64 = (1 << 32) - 1, (1 << 64) - 1
IDENTIFICATION = 0x0100_00ED  # major 1, minor 0
DMA_MASK = (1 << 28) - 1
BUFFER, BUFFER_SIZE = 0x40000, 4096

FACTORIAL, STATUS, INTERRUPT_STATUS, COMMAND = 0x08, 0x20, 0x24, 0x98
SOURCE, DESTINATION, COUNT = 0x80, 0x88, 0x90
COMPUTING, FACTORIAL_INTERRUPT = 0x01, 0x80  # STATUS; the interrupt's number is 1
RUN, TO_RAM, DMA_INTERRUPT = 0x1, 0x2, 0x4  # COMMAND; the interrupt's number is 0x100

Finish = Callable[[], int]  # ends work, under the lock; returns the interrupt to raise, or 0
T = TypeVar("T")


class Edu(DeviceObserver):
    """The device.  What takes time is done by a worker, in order: the guest never waits."""

    def __init__(self) -> None:
        self.registers = RegisterBlock(
            [
                Register(0x00, initial=IDENTIFICATION),
                Register(0x04, on_write=self._liveness),
                Register(FACTORIAL, on_write=self._factorial),
                Register(STATUS, writable=FACTORIAL_INTERRUPT),
                Register(INTERRUPT_STATUS),
                Register(0x60, on_write=self._raise),
                Register(0x64, on_write=self._acknowledge),
                Register(SOURCE, 8, writable=ALL64, sizes=(4, 8)),
                Register(DESTINATION, 8, writable=ALL64, sizes=(4, 8)),
                Register(COUNT, 8, writable=ALL64, sizes=(4, 8)),
                Register(COMMAND, 8, sizes=(4, 8), on_write=self._start),
            ]
        )
        self.buffer = bytearray(BUFFER_SIZE)
        config = ConfigSpace(0x1234, 0x11E8, 0x00FF00, revision=0x10)
        config.add_capability(MsixCapability(1, 2, 0, 2, 0x800))
        bars = {0: Bar(1 << 20, handler=self.registers), 2: Bar(0x1000)}
        self.device = Device(config, bars, observer=self)
        self._lock = threading.Lock()  # for what both threads change
        self._worker = ThreadPoolExecutor(1, "edu")
        self._life = 0  # resets so far: what began before one must not show after it

    def close(self) -> None:
        """Let the worker finish."""
        self._worker.shutdown()

    def reset(self) -> None:
        """Begin a new life."""
        with self._lock:
            self._life += 1
            self.registers.reset()
            self.buffer[:] = bytes(BUFFER_SIZE)

    def _liveness(self, written: int) -> None:
        self.registers[0x04].value = ~written & ALL32

    def _raise(self, number: int) -> None:
        with self._lock:
            self.registers[INTERRUPT_STATUS].value |= number
        self.device.trigger(IrqType.MSIX, 0)

    def _acknowledge(self, number: int) -> None:
        with self._lock:
            self.registers[INTERRUPT_STATUS].value &= ~number

    def _factorial(self, number: int) -> None:
        def compute() -> Finish:
            # From 34 on, 32 factors of 2 leave nothing in the 32 bits.
            result = math.factorial(min(number, 34)) & ALL32
            return lambda: self._store_factorial(result)

        self._busy(STATUS, COMPUTING, compute)

    def _store_factorial(self, result: int) -> int:
        self.registers[FACTORIAL].value = result
        return 1 if self.registers[STATUS].value & FACTORIAL_INTERRUPT else 0

    def _start(self, command: int) -> None:
        if not command & RUN:
            return
        interrupt = 0x100 if command & DMA_INTERRUPT else 0
        source, destination, count = (
            self.registers[offset].value for offset in (SOURCE, DESTINATION, COUNT)
        )

        def transfer() -> Finish:
            if command & TO_RAM:
                self._write_ram(destination, source - BUFFER, count)
                return lambda: interrupt
            return self._read_ram(source, destination - BUFFER, count, interrupt)

        self._busy(COMMAND, RUN, transfer)

    def _busy(self, offset: int, bit: int, work: Callable[[], Finish]) -> None:
        """Do some work with a register's busy bit set."""
        register = self.registers[offset]

        def job() -> None:
            finish = work()
            with self._lock:
                if life != self._life:
                    return
                interrupt = finish()
                register.value &= ~bit
            if interrupt:
                self._raise(interrupt)

        with self._lock:
            if register.value & bit:
                return  # the guest should have waited
            life = self._life
            register.value |= bit
        self._worker.submit(job)

    def _write_ram(self, address: int, start: int, count: int) -> None:
        if self._is_possible(start, count):
            data = bytes(self.buffer[start : start + count])
            self._dma(lambda path: path.write(address & DMA_MASK, data))

    def _read_ram(self, address: int, start: int, count: int, interrupt: int) -> Finish:
        data = b""
        if self._is_possible(start, count):
            data = self._dma(lambda path: path.read(address & DMA_MASK, count)) or b""

        def finish() -> int:
            self.buffer[start : start + len(data)] = data
            return interrupt

        return finish

    def _is_possible(self, start: int, count: int) -> bool:
        inside = start >= 0 and start + count <= BUFFER_SIZE
        return inside and self.device.config.bus_master_enabled

    def _dma(self, use: Callable[[DmaTable | MessageDma], T]) -> T | None:
        try:
            try:
                return use(self.device.dma)
            except DmaFault as fault:
                if fault.reason is not FaultReason.INACCESSIBLE:
                    raise
                return use(self.device.message_dma)  # the memory came without a descriptor
        except VfioUserError as error:
            logging.getLogger("edu").warning("%s", error)
            return None


def main() -> None:
    """Serve one at the path that is the first argument."""
    edu = Edu()
    server = Server(edu.device, sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    server.open()
    server.serve()
    edu.close()


if __name__ == "__main__":
    main()
