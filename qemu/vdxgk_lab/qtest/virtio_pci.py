"""A modern virtio device on PCI, with one split virtqueue at a time.

Virtual I/O Device (VIRTIO) Version 1.2: sections 2.1, 2.7, 3.1 and 4.1.
"""

from __future__ import annotations

import struct

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Frames
from vdxgk_lab.qtest.pci import (
    COMMAND_BUS_MASTER,
    COMMAND_MEMORY,
    MmioWindow,
    PciFunction,
)

_VENDOR_CAPABILITY = 0x09
_COMMON, _NOTIFY = 1, 2  # VIRTIO_PCI_CAP_COMMON_CFG, _NOTIFY_CFG
DEVICE_CONFIG = 4  # VIRTIO_PCI_CAP_DEVICE_CFG

# struct virtio_pci_common_cfg, 4.1.4.3
_FEATURE_SELECT, _FEATURE = 0x00, 0x04
_DRIVER_FEATURE_SELECT, _DRIVER_FEATURE = 0x08, 0x0C
_STATUS = 0x14
_QUEUE_SELECT, _QUEUE_SIZE, _QUEUE_ENABLE, _QUEUE_NOTIFY_OFFSET = 0x16, 0x18, 0x1C, 0x1E
_QUEUE_DESCRIPTORS, _QUEUE_DRIVER, _QUEUE_DEVICE = 0x20, 0x28, 0x30

_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK = 1, 2, 4, 8
VERSION_1 = 1 << 32

_NEXT, _DEVICE_WRITES = 1, 2  # descriptor flags
_ENTRIES = 64


class VirtioDevice:
    """From reset to DRIVER_OK; queues are set up in between."""

    def __init__(
        self, qtest: QtestClient, frames: Frames, function: PciFunction, window: MmioWindow
    ) -> None:
        """Place the BAR and find the structures (4.1.4)."""
        self._qtest = qtest
        self._frames = frames
        self._places: dict[int, int] = {}
        self._notify_multiplier = 0
        bars: dict[int, int] = {}
        for offset in function.capabilities(_VENDOR_CAPABILITY):
            kind, bar = function.read(offset + 3, 1), function.read(offset + 4, 1)
            if kind not in (_COMMON, _NOTIFY, DEVICE_CONFIG):
                continue
            if bar not in bars:
                bars[bar] = function.place_bar(bar, window)
            self._places[kind] = bars[bar] + function.read(offset + 8, 4)
            if kind == _NOTIFY:
                self._notify_multiplier = function.read(offset + 16, 4)
        function.command(COMMAND_MEMORY | COMMAND_BUS_MASTER)

    def place(self, kind: int) -> int:
        """The address of a structure."""
        return self._places[kind]

    def reset(self) -> None:
        """Make the device forget everything (2.4)."""
        self._store(_STATUS, 0, 1)

    def begin(self, features: int) -> int:
        """Reset, and take those of `features` that the device offers; answers them."""
        self.reset()
        self._store(_STATUS, _ACKNOWLEDGE | _DRIVER, 1)
        taken = 0
        for half in range(2):
            self._store(_FEATURE_SELECT, half, 4)
            offered = self._qtest.load(self.place(_COMMON) + _FEATURE, 4)
            chosen = offered & features >> 32 * half & 0xFFFF_FFFF
            self._store(_DRIVER_FEATURE_SELECT, half, 4)
            self._store(_DRIVER_FEATURE, chosen, 4)
            taken |= chosen << 32 * half
        self._store(_STATUS, _ACKNOWLEDGE | _DRIVER | _FEATURES_OK, 1)
        if not self._qtest.load(self.place(_COMMON) + _STATUS, 1) & _FEATURES_OK:
            raise VmError("the virtio device refuses our features.")
        return taken

    def queue(self, index: int) -> Queue:
        """Set up one queue."""
        self._store(_QUEUE_SELECT, index, 2)
        self._store(_QUEUE_SIZE, _ENTRIES, 2)
        rings = [self._frames.take() for _ in range(3)]
        for register, address in zip(
            (_QUEUE_DESCRIPTORS, _QUEUE_DRIVER, _QUEUE_DEVICE), rings, strict=True
        ):
            # The halves one by one: 4.1.3.1 allows no wider access.
            self._store(register, address & 0xFFFF_FFFF, 4)
            self._store(register + 4, address >> 32, 4)
        offset = self._qtest.load(self.place(_COMMON) + _QUEUE_NOTIFY_OFFSET, 2)
        self._store(_QUEUE_ENABLE, 1, 2)
        doorbell = self.place(_NOTIFY) + offset * self._notify_multiplier
        return Queue(self._qtest, self._frames, index, doorbell, rings)

    def finish(self) -> None:
        """Let the device work."""
        self._store(_STATUS, _ACKNOWLEDGE | _DRIVER | _FEATURES_OK | _DRIVER_OK, 1)

    def _store(self, register: int, value: int, size: int) -> None:
        self._qtest.store(self.place(_COMMON) + register, value, size)


class Queue:
    """A split virtqueue."""

    def __init__(
        self, qtest: QtestClient, frames: Frames, index: int, doorbell: int, rings: list[int]
    ) -> None:
        """`rings` are the descriptor table, the driver's ring and the device's."""
        self._qtest = qtest
        self._index = index
        self._doorbell = doorbell
        self._descriptors, self._available, self._used = rings
        self._buffer = frames.take()
        self._offered = 0
        self._taken = 0

    def request(self, content: bytes, answer_size: int) -> bytes:
        """Send one request, wait, and answer what the device wrote behind it."""
        answer = self._buffer + len(content)
        self._qtest.write(self._buffer, content + bytes(answer_size))
        self._describe(0, self._buffer, len(content), _NEXT, 1)
        self._describe(1, answer, answer_size, _DEVICE_WRITES, 0)
        self._offer(0)
        self._qtest.wait_for(self._has_used, "the virtio device answers")
        self._taken += 1
        return self._qtest.read(answer, answer_size)

    def lend(self, count: int, size: int) -> None:
        """Give the device `count` buffers of `size` bytes to write into; all fit one page."""
        if count > _ENTRIES or count * size > PAGE:
            raise ValueError(f"{count} buffers of {size} bytes")
        for number in range(count):
            self._describe(number, self._buffer + number * size, size, _DEVICE_WRITES, 0)
            self._offer(number)

    def collect(self, size: int) -> list[bytes]:
        """What the device wrote into lent buffers since the last time; they are lent again."""
        found = []
        while self._has_used():
            element = self._used + 4 + self._taken % _ENTRIES * 8
            number = self._qtest.load(element, 4)
            found.append(self._qtest.read(self._buffer + number * size, size))
            self._taken += 1
            self._offer(number)
        return found

    def _describe(self, number: int, address: int, size: int, flags: int, following: int) -> None:
        entry = struct.pack("<QIHH", address, size, flags, following)
        self._qtest.write(self._descriptors + 16 * number, entry)

    def _offer(self, number: int) -> None:
        slot = self._available + 4 + self._offered % _ENTRIES * 2
        self._qtest.store(slot, number, 2)
        self._offered += 1
        self._qtest.store(self._available + 2, self._offered & 0xFFFF, 2)
        self._qtest.store(self._doorbell, self._index, 2)

    def _has_used(self) -> bool:
        return self._qtest.load(self._used + 2, 2) != self._taken & 0xFFFF
