"""The display adapter's driver without an operating system: registers, rings, commands.

Everything goes through PCI: the capability that locates the channel, register
accesses that QEMU traps, rings in a BAR that both sides map.  Completions are
polled for.  The layouts are those of vdxgk_channel.h.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence

from vdxgk.channel import layout
from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.pci import (
    COMMAND_BUS_MASTER,
    COMMAND_MEMORY,
    MmioWindow,
    PciFunction,
)

_RING = ctypes.sizeof(layout.Ring)
_MAX_DONATIONS = 64


class BareAdapter:
    """One adapter, in the hands of the test."""

    def __init__(self, qtest: QtestClient, function: PciFunction) -> None:
        """Name the function; `start` touches it."""
        self._qtest = qtest
        self.function = function
        self._registers = 0
        self._shared = 0

    def start(self, window: MmioWindow) -> None:
        """Place the BARs, enable the function, reset the channel."""
        for offset in self.function.capabilities(layout.PCI_CAP_ID):
            if self.function.read(offset + layout.PciCap.magic.offset, 4) == layout.MAGIC:
                break
        else:
            raise VmError("the function has no channel.")
        bar = self.function.read(offset + layout.PciCap.bar.offset, 1)
        base = self.function.place_bar(bar, window)
        registers = self.function.read(offset + layout.PciCap.registers_offset.offset, 4)
        shared = self.function.read(offset + layout.PciCap.shared_offset.offset, 4)
        self._registers = base + registers
        self._shared = base + shared
        self.function.command(COMMAND_MEMORY | COMMAND_BUS_MASTER)
        self.reset()

    def reset(self) -> None:
        """Reset the channel and wait until it is ready."""
        self.write(layout.REG_CONTROL, layout.CONTROL_RESET)
        self._qtest.wait_for(
            lambda: self.read(layout.REG_STATUS) == layout.STATUS_READY, "the channel is ready"
        )

    def read(self, register: int) -> int:
        """Read a register (layout.REG_*)."""
        return self._qtest.load(self._registers + register, 4)

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        self._qtest.store(self._registers + register, value, 4)

    # ---- the engine ----------------------------------------------------------

    def submit(self, **command: int) -> None:
        """Queue an engine command (fields of layout.EngineCommand) and ring the doorbell."""
        self.submit_all([command])

    def submit_all(self, commands: Sequence[Mapping[str, int]]) -> None:
        """Queue several at once, and ring the doorbell once."""
        entries = [bytes(layout.EngineCommand(**command)) for command in commands]
        self._produce(layout.RING_COMMANDS, layout.SHARED_COMMANDS, *entries)
        self.write(layout.REG_ENGINE_DOORBELL, 1)

    def completion(self) -> layout.EngineCompletion:
        """Wait for the next completion of the engine."""
        ring, base = layout.RING_COMMAND_COMPLETIONS, layout.SHARED_COMMAND_COMPLETIONS
        entry = self._consume(ring, base, ctypes.sizeof(layout.EngineCompletion))
        return layout.EngineCompletion.from_buffer_copy(entry)

    def engine(self, **command: int) -> layout.EngineCompletion:
        """Carry out one engine command."""
        self.submit(**command)
        return self.completion()

    # ---- the channel ---------------------------------------------------------

    def request(
        self, op: int, args: bytes = b"", data: bytes = b"", room: int = 0x8000
    ) -> layout.Completion:
        """Carry out one channel request; `room` is what its answer's list may take."""
        request = layout.Request(op=op, cookie=op, data_size=len(data) or room)
        ctypes.memmove(request.args, args, len(args))
        self._qtest.write(self._shared + layout.SHARED_BULK, data)
        self._produce(layout.RING_REQUESTS, layout.SHARED_REQUESTS, bytes(request))
        self.write(layout.REG_CHANNEL_DOORBELL, 1)
        ring, base = layout.RING_COMPLETIONS, layout.SHARED_COMPLETIONS
        entry = self._consume(ring, base, ctypes.sizeof(layout.Completion))
        return layout.Completion.from_buffer_copy(entry)

    def words(self, count: int) -> tuple[int, ...]:
        """The first 64-bit words of the bulk data: the list that a request answered."""
        return struct.unpack(f"<{count}Q", self._qtest.read(self._bulk, 8 * count))

    def create_object(self, args: bytes, donation: int) -> layout.CreateResult:
        """CREATE_OBJECT; blocks of 2 MiB from `donation` on are donated as they are wanted."""
        for _ in range(_MAX_DONATIONS):
            answer = self.request(layout.OP_CREATE_OBJECT, args)
            if answer.status != layout.NT_MORE_MEMORY:
                break
            block = struct.pack("<2Q", donation, 2 << 20)
            donation += 2 << 20
            _check(self.request(layout.OP_DONATE, data=block), "donation")
        _check(answer, "creation")
        return layout.CreateResult.from_buffer_copy(answer.result)

    def event(self) -> layout.Event:
        """Wait for the next event."""
        size = ctypes.sizeof(layout.Event)
        entry = self._consume(layout.RING_EVENTS, layout.SHARED_EVENTS, size)
        return layout.Event.from_buffer_copy(entry)

    def has_event(self) -> bool:
        """Whether an event waits."""
        return self._waiting(layout.RING_EVENTS)

    def want_interrupt(self, ring: int, wanted: bool = True) -> None:
        """Ask for an interrupt when the next entry comes into a ring of the adapter's."""
        self._qtest.store(self._index(ring, layout.Ring.notify.offset), int(wanted), 4)

    # ---- rings ---------------------------------------------------------------

    @property
    def _bulk(self) -> int:
        return self._shared + layout.SHARED_BULK

    def _index(self, ring: int, field: int) -> int:
        return self._shared + ring * _RING + field

    def _waiting(self, ring: int) -> bool:
        producer = self._qtest.load(self._index(ring, layout.Ring.producer.offset), 4)
        return producer != self._qtest.load(self._index(ring, layout.Ring.consumer.offset), 4)

    def _produce(self, ring: int, base: int, *entries: bytes) -> None:
        index = self._index(ring, layout.Ring.producer.offset)
        producer = self._qtest.load(index, 4)
        for number, entry in enumerate(entries, producer):
            slot = self._shared + base + number % layout.RING_ENTRIES * len(entry)
            self._qtest.write(slot, entry)
        self._qtest.store(index, (producer + len(entries)) & 0xFFFF_FFFF, 4)

    def _consume(self, ring: int, base: int, size: int) -> bytes:
        self._qtest.wait_for(lambda: self._waiting(ring), f"an entry in ring {ring}")
        index = self._index(ring, layout.Ring.consumer.offset)
        consumer = self._qtest.load(index, 4)
        slot = self._shared + base + consumer % layout.RING_ENTRIES * size
        entry = self._qtest.read(slot, size)
        self._qtest.store(index, (consumer + 1) & 0xFFFF_FFFF, 4)
        return entry


def _check(completion: layout.Completion, what: str) -> None:
    if completion.status:
        raise VmError(f"{what}: status {completion.status:#x}.")
