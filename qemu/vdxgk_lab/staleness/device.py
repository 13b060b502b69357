"""A device that keeps reading a page that its guest takes away, and notes when that fails.

All times are of one clock, the device's CLOCK_MONOTONIC, in nanoseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pyvfio_user import (
    Bar,
    ConfigSpace,
    ConnectionLost,
    Device,
    DeviceObserver,
    DmaFault,
    MessageDmaError,
    Register,
    RegisterBlock,
)

VENDOR_ID, DEVICE_ID, CLASS_CODE = 0x1234, 0x57A1, 0xFF0000

Path = Literal["descriptors", "messages"]
PATHS: dict[int, Path] = {1: "descriptors", 2: "messages"}
"""By the command that begins a watch."""
_UNMAPPING, _UNMAPPED = 3, 4
WATCHING, REFUSED, GIVEN_UP = 1, 2, 3
"""What the state register says."""

WORD = 8
PAUSE = 50e-6
"""Seconds between two reads: how exact the times are."""
READS_AFTER = 3
"""Reads after the first that was refused, which must be refused too."""
PATIENCE = 30.0
"""Seconds after which a page that is still within reach counts as never taken away."""


@dataclass(frozen=True)
class Sample:
    """One page, from the guest's call that unmaps it to the refusal.

    `unmapping` and `unmapped`: when the guest's register writes before and
    after that call came in.  `announced`: when QEMU's DMA_UNMAP was carried
    out, None if it has not come.  `last_hit`: the beginning of the last read that
    succeeded.  `refused`: the end of the first that did not.  `stale_reads`
    began after `unmapped` and succeeded; of them `foreign_reads` saw what the
    guest's CPU wrote into the page after that.  `came_back`: reads succeeded
    after one had been refused.
    """

    path: Path
    unmapping: int
    unmapped: int
    announced: int | None
    last_hit: int
    refused: int
    stale_reads: int
    foreign_reads: int
    came_back: bool

    @property
    def stale(self) -> float:
        """Seconds for which the page was within reach though the unmap had returned."""
        return max(self.last_hit - self.unmapped, 0) / 1e9

    @property
    def unmap(self) -> float:
        """Seconds from before the guest's call to the refusal."""
        return (self.refused - self.unmapping) / 1e9


class WatchedDevice(DeviceObserver):
    """`device` is what a server serves; `samples` what was found so far."""

    def __init__(self) -> None:
        """One BAR of registers; a thread that reads when told to."""
        self.samples: list[Sample] = []
        self._address = Register(0x00, 8, writable=(1 << 64) - 1)
        self._state = Register(0x0C)
        registers = [
            self._address,
            Register(0x08, on_write=self._command),
            self._state,
        ]
        self.device = Device(
            ConfigSpace(VENDOR_ID, DEVICE_ID, CLASS_CODE),
            {0: Bar(4096, handler=RegisterBlock(registers))},
            observer=self,
        )
        self._reads: dict[Path, Callable[[int, int], bytes]] = {
            "descriptors": self.device.dma.read,
            "messages": self.device.message_dma.read,
        }
        self._path: Path = "descriptors"
        self._unmapping = self._unmapped = 0
        self._announced: int | None = None
        self._wanted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._watch, name="watch")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a watch under way is given up."""
        self._stopping = True
        self._wanted.set()
        self._thread.join()

    # ---- the protocol's thread -----------------------------------------------

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """See DeviceObserver."""
        if removed and iova <= self._address.value < iova + size:
            self._announced = time.monotonic_ns()

    def _command(self, value: int) -> None:
        now = time.monotonic_ns()
        if value == _UNMAPPING:
            self._unmapping = now
        elif value == _UNMAPPED:
            self._unmapped = now
        elif value in PATHS:
            self._path = PATHS[value]
            self._unmapping = self._unmapped = 0
            self._announced = None
            self._state.value = 0
            self._wanted.set()

    # ---- the watching thread -------------------------------------------------

    def _watch(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._stopping:
                return
            try:
                self._state.value = self._watch_one()
            except ConnectionLost:
                continue

    def _watch_one(self) -> int:
        read, address = self._reads[self._path], self._address.value
        hit, foreign = address.to_bytes(WORD, "little"), (~address & (1 << 64) - 1)
        changed = foreign.to_bytes(WORD, "little")
        last_hit = refused = 0
        stale = foreign_reads = refusals = 0
        came_back = False
        deadline = time.monotonic_ns() + int(PATIENCE * 1e9)
        while refusals <= READS_AFTER:
            began = time.monotonic_ns()
            if began > deadline or self._stopping:
                return GIVEN_UP
            try:
                word = read(address, WORD)
            except (DmaFault, MessageDmaError):
                refused = refused or time.monotonic_ns()
                refusals += 1
            else:
                last_hit = began
                came_back |= refusals > 0
                # The guest has put the word there before it told us to watch.
                if word == hit:
                    self._state.value = WATCHING
                if self._unmapped and began > self._unmapped:
                    stale += 1
                    foreign_reads += word == changed
            time.sleep(PAUSE)
        while not self._unmapped:  # it was refused while the guest's call was under way
            if time.monotonic_ns() > deadline or self._stopping:
                return GIVEN_UP
            time.sleep(PAUSE)
        self.samples.append(
            Sample(
                self._path,
                self._unmapping,
                self._unmapped,
                self._announced,
                last_hit,
                refused,
                stale,
                foreign_reads,
                came_back,
            )
        )
        return REFUSED
