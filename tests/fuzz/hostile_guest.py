"""A guest that is almost right: ring entries, register accesses, DMA, against the adapter's model.

There is no socket and no thread, so that the choices decide everything.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
import threading
from collections.abc import Sequence
from typing import Protocol, TypeVar

from pyvfio_user import Access, RemoteProtocolError, wire
from vdxgk import function
from vdxgk.adapter import AdapterOptions
from vdxgk.channel import layout
from vdxgk.memory import ddi
from vdxgk.memory.backend import Quotas
from vdxgk.memory.ntstatus import NtStatus

from .requests import ARGUMENTS, EDGES, KINDS, OPS, PAGE
from .still_adapter import still_adapter, work

RAM = 4 << 20
CANARY_PAGES = range(960, 1024)
"""Pages of guest RAM that are never mapped for writing."""
CANARY = b"\xa5" * PAGE
QUOTAS = Quotas(
    objects=12, lists=24, cpu_mappings=8, donated_bytes=64 << 20, committed_bytes=32 << 20
)
T = TypeVar("T")


class Choices(Protocol):
    """Where decisions come from: bytes, zeroes behind their end."""

    def byte(self) -> int:
        """Take one."""

    def __bool__(self) -> bool:
        """Whether there are more."""


class HostileGuest:
    """An adapter and the guest that torments it; a context manager.

    Leaving it checks that no byte outside of what was mapped was written, and
    that nothing in the adapter failed.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.entries = 0
        self.accesses = 0
        self.adapter, self._complaints = still_adapter(
            AdapterOptions(vram=4 << 20, quotas=QUOTAS, misbehave=True)
        )
        self.device = self.adapter.device
        memory = self.device.bars[function.CHANNEL_BAR].memory
        assert memory is not None
        self._channel = memory
        self.shared = memory.view[function.SHARED_OFFSET :]
        self._forget()
        self._connect()

    def _forget(self) -> None:
        self.handles = [0]
        self.allocating: dict[int, int] = {}
        """Adapter objects of requests for lists, by cookie."""
        self.lists: list[tuple[int, int]] = []
        """Adapter objects and their lists."""
        self.wanted: list[tuple[int, int, int]] = []
        """What the last list should have mapped."""

    def _connect(self) -> None:
        self.ram = os.memfd_create("guest")
        os.ftruncate(self.ram, RAM)
        for page in CANARY_PAGES:
            os.pwrite(self.ram, CANARY, page * PAGE)
        # The protocol's thread is another one, and may not wait for messages.
        protocol = threading.Thread(target=self.device.message_dma.attach, args=[self._send, 65536])
        protocol.start()
        protocol.join()
        self.adapter.connected()
        self.map(0, CANARY_PAGES.start * PAGE, Access(3), 0)
        self.adapter.described()

    def __enter__(self) -> HostileGuest:
        self.register_write(4, struct.pack("<I", layout.CONTROL_RESET), layout.REG_CONTROL)
        self.work()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.device.message_dma.detach()
        self.device.dma.clear()
        self.adapter.disconnected()
        self.work()
        view = os.pread(self.ram, RAM, 0)
        self.adapter.backend.ram.release()
        os.close(self.ram)
        for bar in self.device.bars.values():
            if bar.memory is not None:
                bar.memory.close()
        if kind is None:
            assert not self._complaints.internal, self._complaints.internal[0]
            for page in CANARY_PAGES:
                assert view[page * PAGE : (page + 1) * PAGE] == CANARY, f"page {page} was written"

    # ---- choices ---------------------------------------------------------------

    def chance(self, of_256: int) -> bool:
        return self.choices.byte() < of_256

    def pick(self, items: Sequence[T]) -> T:
        return items[self.choices.byte() % len(items)]

    def number(self) -> int:
        kind = self.choices.byte()
        if kind < 0x40:
            return self.pick(self.handles)
        if kind < 0x80:
            return self.pick(EDGES)
        if kind < 0xC0:
            return self.choices.byte() * PAGE
        if kind < 0xF0:
            return self.choices.byte() & 3
        return int.from_bytes(bytes(self.choices.byte() for _ in range(8)), "little")

    # ---- the steps ---------------------------------------------------------------

    def step(self) -> None:
        """Do one thing."""
        kind = self.choices.byte()
        if kind < 0x80:
            self.request()
        elif kind < 0xA8:
            self.command()
        elif kind < 0xD8:
            self.register()
        elif kind < 0xE8:
            self.show()
        elif kind < 0xFB:
            self.announce()
        elif kind < 0xFE:
            self.scribble()
        else:
            self.upset()

    def request(self) -> None:
        """One request, or a batch of them, as the shim would make it or not."""
        for _ in range(1 + (self.choices.byte() & 3)):
            op = self.pick(OPS) if self.chance(0xF0) else self.choices.byte()
            request = layout.Request(op=op, cookie=self.entries)
            structure = ARGUMENTS.get(op)
            args = b"" if structure is None else self.arguments(structure)
            ctypes.memmove(request.args, args, len(args))
            if self.chance(0xF0):
                request.data_size = 48 * (self.choices.byte() & 31)
            else:
                request.data_offset = self.number() & 0xFFFFFFFF
                request.data_size = self.number() & 0xFFFFFFFF
                request.flags = self.choices.byte() & 1
            if op == layout.OP_DONATE or (op == layout.OP_START_ADAPTER and self.chance(0x20)):
                request.data_size = 16 * self.put_ranges()
            elif op == layout.OP_START_ADAPTER:
                request.data_size = 0
            if op == layout.OP_ALLOCATE_ADL:
                self.allocating[request.cookie] = int.from_bytes(args[:8], "little")
            self.produce(layout.RING_REQUESTS, layout.SHARED_REQUESTS, bytes(request))
        self.ring_doorbell(layout.REG_CHANNEL_DOORBELL)
        self.read_completions()

    def arguments(self, structure: type[ctypes.LittleEndianStructure]) -> bytes:
        value = structure()
        if structure is layout.StartArgs:
            os.pwrite(self.ram, struct.pack("<Q", 77), 0)
            value = layout.StartArgs(
                highest_visible=(1 << 32) - 1,
                iommu_caps=4,
                iommu=1,
                highest_ram=(8 << 30) - 1,
                aperture_end=(1 << 48) - 1,
                probe_value=77,
            )
        elif structure is ddi.CreatePhysicalMemoryObject:
            value = ddi.CreatePhysicalMemoryObject(
                hAdapter=self.handle("hAdapter"),
                Size=PAGE * (1 + (self.choices.byte() & 31)),
                Type=self.pick((0, 0, 0, 1, 1, 1, 2, 2, 3, 4)),
                CacheType=1,
            )
            value.Mdl.HighAddress = self.pick((*EDGES, *(EDGES[-1:] * 64)))
            if value.Type == ddi.PhysicalMemoryType.SECTION:
                value.Section.DesiredAccess, value.Section.PageProtection = 6, 4
        elif structure is ddi.AllocateAdl:
            value.hAdapterMemoryObject = self.handle("hAdapterMemoryObject")
            value.Size = PAGE * (1 + (self.choices.byte() & 3))
            value.Flags = self.choices.byte() & 3
        elif structure is ddi.MapPhysicalMemory:
            value.hPhysicalMemoryObject = self.handle("hPhysicalMemoryObject")
            value.AccessMode, value.Size = self.choices.byte() & 1, PAGE
        elif structure is layout.AdlArgs and self.lists and self.chance(0xE0):
            value = layout.AdlArgs(*self.lists[-1 - self.choices.byte() % len(self.lists)])
        else:
            for name, *_ in structure._fields_:
                setattr(value, name, self.handle(name) if name in KINDS else self.number())
        data = bytearray(bytes(value))
        if self.chance(0x20):
            # And one word of it is anything.
            position = self.choices.byte() % (len(data) // 8) * 8
            data[position : position + 8] = struct.pack("<Q", self.number())
        return bytes(data)

    def handle(self, name: str) -> int:
        """A handle of the kind that a field wants; 0 or another one now and then."""
        fitting = [handle for handle in self.handles if handle >> 56 == KINDS[name]]
        if not fitting or self.chance(0x10):
            return self.pick(self.handles)
        return fitting[-1 - self.choices.byte() % min(len(fitting), 4)]

    def put_ranges(self) -> int:
        """Ranges into the bulk data; how many."""
        count = self.choices.byte() & 7
        words: list[int] = []
        for _ in range(count):
            if self.chance(0xD0):
                words += [self.choices.byte() * 3 * PAGE, PAGE * (1 + (self.choices.byte() & 15))]
            else:
                words += [self.number(), self.number()]
        data = struct.pack(f"<{len(words)}Q", *words)
        self.shared[layout.SHARED_BULK : layout.SHARED_BULK + len(data)] = data
        return count

    def command(self) -> None:
        """Engine commands, most of them near what is mapped."""
        for _ in range(1 + (self.choices.byte() & 1)):
            command = layout.EngineCommand(
                op=self.choices.byte() % 5,
                flags=self.choices.byte() % 3,
                fence=self.entries,
                source=self.address(),
                destination=self.address(),
                size=self.choices.byte() * 64 if self.chance(0xE0) else self.number(),
                value=self.choices.byte(),
                step=1,
            )
            self.produce(layout.RING_COMMANDS, layout.SHARED_COMMANDS, bytes(command))
        self.ring_doorbell(layout.REG_ENGINE_DOORBELL)
        self.consume(layout.RING_COMMAND_COMPLETIONS)

    def address(self) -> int:
        if self.chance(0xC0):
            return self.choices.byte() * PAGE + self.choices.byte() * 8
        return self.number()

    def register(self) -> None:
        """An access of any size, to any register, of any BAR or of configuration space."""
        bar = self.pick(
            (function.CHANNEL_BAR,) * 4 + (function.DISPLAY_BAR, function.FRAMEBUFFER_BAR)
        )
        offset = self.choices.byte() & 0x3F if self.chance(0xC0) else self.number()
        size = self.pick((4, 4, 4, 1, 2, 8))
        offset %= self.device.bars[bar].size - size
        if self.chance(0x80):
            self.accesses += 1
            assert len(self.device.bars[bar].read(offset, size)) == size
        else:
            value = (self.number() & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            if bar == function.CHANNEL_BAR and offset == layout.REG_CONTROL:
                value = bytes(size)  # a reset is an upset
            self.register_write(size, value, offset, bar)
        self.work()

    def register_write(
        self, size: int, value: bytes, offset: int, bar: int = function.CHANNEL_BAR
    ) -> None:
        self.accesses += 1
        self.device.bars[bar].write(offset, value)

    def show(self) -> None:
        """What is mapped, or nearly, on the screen; and somebody who looks."""
        if self.chance(0xE0):
            self.register_write(4, b"\1\0\0\0", layout.REG_SCANOUT_CONTROL)
        kind = self.choices.byte()
        if kind < 0x70:
            slot = self.describe_surface()
            self.register_write(4, struct.pack("<I", slot), layout.REG_SCANOUT_FLIP)
        elif kind < 0xA0:
            self.describe_cursor()
            self.register_write(4, b"\1\0\0\0", layout.REG_SCANOUT_CURSOR)
        else:
            register = self.pick((0, 4, 8, 0xC)) + layout.REG_SCANOUT_CONTROL
            self.register_write(4, struct.pack("<I", self.number() & 0xFFFFFFFF), register)
        self.work()
        if self.chance(0x80):
            self.adapter.display.picture()

    def describe_surface(self) -> int:
        """Put a surface and its runs where the pipe looks for them; its slot."""
        slot = self.choices.byte() & 1
        width, height = 1 + self.choices.byte(), 1 + (self.choices.byte() & 31)
        surface = layout.Surface(
            format=1 + self.choices.byte() % 3,
            width=width,
            height=height,
            pitch=4 * width + (self.choices.byte() & 7),
            flags=self.choices.byte() & 1,
            run_count=1 + (self.choices.byte() & 7),
            offset=self.choices.byte() * 16,
            sequence=self.entries,
        )
        words = [
            word
            for _ in range(surface.run_count)
            for word in (self.address(), PAGE * (1 + (self.choices.byte() & 15)))
        ]
        at = layout.SHARED_SURFACE_RUNS + slot * layout.SURFACE_MAX_RUNS * 16
        struct.pack_into(f"<{len(words)}Q", self.shared, at, *words)
        self._put(layout.SHARED_SCANOUT + slot * ctypes.sizeof(surface), bytes(surface))
        return slot

    def describe_cursor(self) -> None:
        cursor = layout.Cursor(
            flags=self.choices.byte() & 7,
            hot_x=self.choices.byte() & 0x4F,
            hot_y=self.choices.byte() & 0x4F,
        )
        cursor.pages[:] = [self.address() for _ in cursor.pages]
        self._put(layout.SHARED_SCANOUT + layout.Scanout.cursor.offset, bytes(cursor))

    def _put(self, at: int, data: bytes) -> None:
        """With one word of it anything, now and then."""
        if self.chance(0x20):
            position = self.choices.byte() % (len(data) // 4) * 4
            word = struct.pack("<I", self.number() & 0xFFFFFFFF)
            data = data[:position] + word + data[position + 4 :]
        self.shared[at : at + len(data)] = data

    def announce(self) -> None:
        """The guest maps and unmaps, as it was asked to or otherwise."""
        if self.wanted and self.chance(0x80):
            self.map_as_asked()
        elif self.chance(0x80):
            access = Access(self.choices.byte() & 3)
            place = self.choices.byte() * 4
            size = PAGE * (1 + (self.choices.byte() & 15))
            if place * PAGE + size > CANARY_PAGES.start * PAGE:
                access &= Access.READ
            self.map(
                self.choices.byte() * PAGE if self.chance(0xE0) else self.number(),
                size,
                access,
                place * PAGE,
            )
        else:
            start, size = self.choices.byte() * PAGE, PAGE * self.choices.byte()
            self.adapter.dma_unmapped(start, size, self.device.dma.unmap(start, size))
            self.work()

    def map_as_asked(self) -> None:
        for logical, physical, size in self.wanted:
            if physical + size <= CANARY_PAGES.start * PAGE:
                self.map(logical, size, Access(3), physical)

    def map(self, logical: int, size: int, access: Access, offset: int) -> None:
        descriptor = os.dup(self.ram)
        with contextlib.suppress(RemoteProtocolError):
            mapping = self.device.dma.map(logical, size, access, descriptor, offset)
            self.adapter.dma_mapped(mapping)

    def scribble(self) -> None:
        """Indices and entries that no driver writes."""
        if self.chance(0x40):
            offset = self.choices.byte() * 0x200 + self.choices.byte()
            data = bytes(self.choices.byte() for _ in range(8))
            self.shared[offset : offset + len(data)] = data
        else:
            ring = self.ring(self.choices.byte() % layout.RINGS)
            field = self.pick(("producer", "consumer", "notify"))
            if self.chance(0x80):
                setattr(ring, field, self.number() & 0xFFFFFFFF)
            else:
                setattr(
                    ring, field, (getattr(ring, field) + self.choices.byte() - 128) & 0xFFFFFFFF
                )
        self.ring_doorbell(self.pick((layout.REG_CHANNEL_DOORBELL, layout.REG_ENGINE_DOORBELL)))

    def upset(self) -> None:
        """What happens seldom: resets of every kind, bus mastering, misbehaviour, a look."""
        kind = self.choices.byte() % 6
        if kind == 0:
            self.device.reset()
        elif kind == 1:
            self.device.config.write(4, bytes([self.choices.byte() & 6, 0]))
        elif kind == 2:
            self.adapter.display.picture()
        elif kind == 3:
            self.device.config.write(self.choices.byte(), bytes([self.choices.byte()]))
        self.device.config.write(4, b"\x06\x00")
        if kind in (0, 4, 5) or not self.adapter.registers.status & layout.STATUS_READY:
            self.register_write(4, struct.pack("<I", layout.CONTROL_RESET), layout.REG_CONTROL)
            self.work()
            self._forget()

    # ---- rings -------------------------------------------------------------------

    def ring(self, number: int) -> layout.Ring:
        return layout.Ring.from_buffer(self.shared, number * ctypes.sizeof(layout.Ring))

    def produce(self, number: int, base: int, entry: bytes) -> None:
        ring = self.ring(number)
        slot = base + ring.producer % layout.RING_ENTRIES * len(entry)
        self.shared[slot : slot + len(entry)] = entry
        ring.producer = (ring.producer + 1) & 0xFFFFFFFF
        self.entries += 1

    def ring_doorbell(self, register: int) -> None:
        self.register_write(4, b"\1\0\0\0", register)
        self.work()

    def work(self) -> None:
        work(self.adapter)
        self.check()

    def check(self) -> None:
        backend = self.adapter.backend
        assert len(backend.objects) <= QUOTAS.objects
        assert len(backend.lists) <= QUOTAS.lists
        assert backend.pool.donated <= QUOTAS.donated_bytes

    def consume(self, number: int) -> None:
        ring = self.ring(number)
        ring.consumer = ring.producer

    def read_completions(self) -> None:
        """Remember the handles that the backend gave out."""
        ring = self.ring(layout.RING_COMPLETIONS)
        for _ in range(min((ring.producer - ring.consumer) & 0xFFFFFFFF, 8)):
            slot = layout.SHARED_COMPLETIONS + ring.consumer % layout.RING_ENTRIES * 128
            done = layout.Completion.from_buffer_copy(self.shared, slot)
            assert done.status != NtStatus.INTERNAL_ERROR
            ring.consumer = (ring.consumer + 1) & 0xFFFFFFFF
            opening = self.allocating.pop(done.cookie, None)
            if done.status == 0:
                handles = struct.unpack_from("<2Q", bytes(done.result))
                self.handles += [handle for handle in handles if handle >> 56 in range(0xA1, 0xA6)]
                del self.handles[1:-24]
                if opening is None:
                    continue
                self.lists = [*self.lists[-3:], (opening, handles[0])]
                count = min(done.data_count, 16)
                words = struct.unpack_from(f"<{3 * count}Q", self.shared, layout.SHARED_BULK)
                self.wanted = list(zip(words[::3], words[1::3], words[2::3], strict=True))
                if self.chance(0xA0):
                    self.map_as_asked()
        self.consume(layout.RING_EVENTS)

    # ---- the hypervisor's answers to messages --------------------------------------

    def _send(self, message: bytes) -> None:
        """Answer a DMA message at once: rightly, with an error, or with nonsense."""
        message_id, command, _, _, _ = struct.unpack_from("=HHIII", message)
        address, count = wire.DMA_ACCESS.unpack_from(message, 16)[:2]
        inside = address + count <= CANARY_PAGES.start * PAGE
        payload = wire.DMA_ACCESS.pack(address, count)
        if command == wire.Command.DMA_READ:
            payload += os.pread(self.ram, count, address) if inside else b""
        elif inside:
            os.pwrite(self.ram, message[16 + wire.DMA_ACCESS.size :], address)
        flags, error = (1, 0) if inside else (0x21, 14)
        if self.chance(0x10):
            payload = payload[: self.choices.byte()]
        answer = wire.Message(
            message_id, command, flags, error, payload=memoryview(payload), descriptors=[]
        )
        if not self.device.message_dma.receive(answer):
            raise AssertionError("nobody waited for the answer")


def torment(choices: Choices) -> tuple[int, int]:
    """Do what they say; the number of ring entries and of register accesses."""
    before = len(os.listdir("/proc/self/fd"))
    with HostileGuest(choices) as guest:
        while choices:
            guest.step()
    done = guest.entries, guest.accesses
    del guest
    gc.collect()  # an adapter's parts know each other
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"
    return done
