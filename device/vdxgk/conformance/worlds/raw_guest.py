"""A guest without an operating system: QEMU's part and the shim's, over a real socket."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import struct
import time

from pyvfio_user import Client, SharedMemory
from vdxgk import function
from vdxgk.channel import layout
from vdxgk.memory.pages import LARGE_PAGE_SIZE

RAM = 64 << 20
MSI, MSIX = 1, 2
CONFIG_REGION = 7
LIMIT = 20.0
"""Seconds after which a test has failed, not the time that anything takes."""


class RawGuest:
    """Drives rings and doorbells by hand."""

    def __init__(
        self,
        path: str,
        ram: int = RAM,
        memory: SharedMemory | None = None,
        *,
        hot_plugged: bool = False,
    ) -> None:
        """``memory``: that of the client of another function, instead of ``ram`` bytes.

        ``hot_plugged``: the IOMMU is on already, so nothing is mapped at its own address.
        """
        self.ram = memory or SharedMemory(ram, "ram")
        ram = self.ram.size
        self._borrowed = memory is not None
        self.eventfds: list[int] = []
        self.client = Client(path)
        try:
            self._attach(0 if hot_plugged else ram)
        except BaseException:
            self.close()
            raise
        self._next_block = 8 << 20

    def _attach(self, ram: int) -> None:
        self.client.negotiate()
        if ram:
            self.client.dma_map(0, ram, descriptor=self.ram.fd)
        self.client.device_info()
        info = self.client.region_info(function.CHANNEL_BAR)
        assert info.areas == [(function.SHARED_OFFSET, function.SHARED_SIZE)]
        assert info.descriptor is not None
        try:
            self._map = mmap.mmap(info.descriptor, info.size, offset=info.offset)
        finally:
            os.close(info.descriptor)
        self.shared = memoryview(self._map)[function.SHARED_OFFSET :]
        self.rings = [
            layout.Ring.from_buffer(self.shared, i * ctypes.sizeof(layout.Ring))
            for i in range(layout.RINGS)
        ]
        self.eventfds = [os.eventfd(0) for _ in range(layout.VECTORS)]
        kind = MSIX if self.client.irq_info(MSIX)[1] else MSI
        self.client.assign_eventfds(kind, 0, self.eventfds)
        self.client.region_write(CONFIG_REGION, 4, struct.pack("<H", 6))

    def close(self) -> None:
        """Hang up, and let go of the memory."""
        self.client.close()
        if not self._borrowed:
            self.ram.close()
        for descriptor in self.eventfds:
            os.close(descriptor)

    # ---- registers ---------------------------------------------------------

    def read(self, register: int) -> int:
        """A register of the channel."""
        data = self.client.region_read(function.CHANNEL_BAR, register, 4)
        return int.from_bytes(data, "little")

    def write(self, register: int, value: int) -> None:
        """Write a register of the channel."""
        self.client.region_write(function.CHANNEL_BAR, register, value.to_bytes(4, "little"))

    def reset(self) -> None:
        """Reset the channel, and wait until it is ready."""
        self.write(layout.REG_CONTROL, layout.CONTROL_RESET)
        for _ in range(100_000):
            if self.read(layout.REG_STATUS) == layout.STATUS_READY:
                return
        raise AssertionError("the channel does not become ready")

    # ---- rings -------------------------------------------------------------

    def wait(self, vector: int) -> None:
        """Until the interrupt; a register access now and then answers DMA messages meanwhile."""
        end = time.monotonic() + LIMIT
        interrupt = select.poll()
        interrupt.register(self.eventfds[vector], select.POLLIN)
        while not interrupt.poll(10):
            assert time.monotonic() < end, f"no interrupt on vector {vector}"
            self.read(layout.REG_STATUS)
        os.eventfd_read(self.eventfds[vector])

    def produce(self, ring: int, base: int, entry: bytes, doorbell: int) -> None:
        """Put an entry into a ring, and ring if the other side sleeps."""
        header = self.rings[ring]
        slot = base + header.producer % layout.RING_ENTRIES * len(entry)
        self.shared[slot : slot + len(entry)] = entry
        header.producer = (header.producer + 1) & 0xFFFFFFFF
        if header.notify:
            self.write(doorbell, 1)

    def consume(self, ring: int, base: int, size: int, vector: int) -> bytes:
        """The next entry of a ring, once it is there."""
        header = self.rings[ring]
        while header.producer == header.consumer:
            header.notify = 1
            if header.producer == header.consumer:
                self.wait(vector)
            header.notify = 0
        slot = base + header.consumer % layout.RING_ENTRIES * size
        entry = bytes(self.shared[slot : slot + size])
        header.consumer = (header.consumer + 1) & 0xFFFFFFFF
        return entry

    def request(
        self, op: int, args: bytes = b"", data: bytes = b"", room: int = 0x8000
    ) -> layout.Completion:
        """One channel request and its completion."""
        request = layout.Request(op=op, cookie=op, data_size=len(data) or room)
        ctypes.memmove(request.args, args, len(args))
        bulk = layout.SHARED_BULK
        self.shared[bulk : bulk + len(data)] = data
        self.produce(
            layout.RING_REQUESTS,
            layout.SHARED_REQUESTS,
            bytes(request),
            layout.REG_CHANNEL_DOORBELL,
        )
        entry = self.consume(
            layout.RING_COMPLETIONS, layout.SHARED_COMPLETIONS, 128, layout.VECTOR_CHANNEL
        )
        completion = layout.Completion.from_buffer_copy(entry)
        assert completion.cookie == op
        return completion

    def words(self, count: int) -> tuple[int, ...]:
        """Words of the bulk data."""
        return struct.unpack_from(f"<{count}Q", self.shared, layout.SHARED_BULK)

    def engine(self, **command: int) -> layout.EngineCompletion:
        """One engine command and its completion."""
        entry = layout.EngineCommand(**command)
        self.produce(
            layout.RING_COMMANDS, layout.SHARED_COMMANDS, bytes(entry), layout.REG_ENGINE_DOORBELL
        )
        return layout.EngineCompletion.from_buffer_copy(
            self.consume(
                layout.RING_COMMAND_COMPLETIONS,
                layout.SHARED_COMMAND_COMPLETIONS,
                64,
                layout.VECTOR_ENGINE,
            )
        )

    def event(self) -> layout.Event:
        """The next event."""
        entry = self.consume(layout.RING_EVENTS, layout.SHARED_EVENTS, 64, layout.VECTOR_EVENT)
        return layout.Event.from_buffer_copy(entry)

    # ---- the shim's part -----------------------------------------------------

    def start(self, probe: int | None = None) -> int:
        """Start in logical mode: as with an IOMMU, nothing stays mapped at its own address."""
        self.reset()
        self.client.dma_unmap(0, self.ram.size)
        return self.start_adapter(probe)

    def start_physical(self) -> int:
        """One more, in physical mode without an IOMMU; 0 if its addresses are too narrow."""
        completion = self._start(
            mode=layout.MODE_PHYSICAL, iommu=layout.IOMMU_NONE, highest_visible=(1 << 64) - 1
        )
        return int(layout.StartResult.from_buffer_copy(completion.result).adapter)

    def start_adapter(self, probe: int | None = None) -> int:
        """One more adapter in the domain."""
        completion = self._start(**({} if probe is None else {"probe_value": probe}))
        assert completion.status == 0, hex(completion.status)
        return int(layout.StartResult.from_buffer_copy(completion.result).adapter)

    def _start(self, **wanted: int) -> layout.Completion:
        self.ram.view[0:8] = struct.pack("<Q", 99)
        usual = {
            "highest_visible": (1 << 32) - 1,
            "iommu_caps": 4,
            "iommu": layout.IOMMU_TRANSLATED,
            "highest_ram": (8 << 30) - 1,
            "aperture_end": (1 << 48) - 1,
            "probe_gpa": 0,
            "probe_value": 99,
        }
        args = layout.StartArgs(**(usual | wanted))
        return self.request(layout.OP_START_ADAPTER, bytes(args), room=0)

    def create(self, args: bytes) -> tuple[layout.CreateResult, list[tuple[int, int]]]:
        """Create an object, donating what is asked for; its runs too."""
        while True:
            completion = self.request(layout.OP_CREATE_OBJECT, args)
            if completion.status != layout.NT_MORE_MEMORY:
                break
            self.donate()
        assert completion.status == 0, hex(completion.status)
        result = layout.CreateResult.from_buffer_copy(completion.result)
        words = self.words(2 * result.run_count)
        return result, list(zip(words[::2], words[1::2], strict=True))

    def donate(self) -> None:
        """Give the backend 2 MiB."""
        block = struct.pack("<2Q", self._next_block, LARGE_PAGE_SIZE)
        self._next_block += LARGE_PAGE_SIZE
        assert self.request(layout.OP_DONATE, data=block).status == 0

    def allocate_adl(self, opening: int, size: int) -> tuple[int, list[tuple[int, int, int]]]:
        """AllocateAdl: the list, and what to map."""
        args = struct.pack("<4QQ", opening, 0, size, 2, 0)
        completion = self.request(layout.OP_ALLOCATE_ADL, args)
        assert completion.status == 0, hex(completion.status)
        result = layout.AllocateAdlResult.from_buffer_copy(completion.result)
        words = self.words(3 * result.mapping_count)
        return int(result.adl), list(zip(words[::3], words[1::3], words[2::3], strict=True))

    def map(self, mappings: list[tuple[int, int, int]]) -> None:
        """Announce mappings, as the hypervisor does."""
        for logical, physical, size in mappings:
            self.client.dma_map(logical, size, descriptor=self.ram.fd, offset=physical)

    def commit(self, opening: int, adl: int) -> int:
        """Commit a list; its NTSTATUS."""
        args = struct.pack("<2Q", opening, adl)
        return int(self.request(layout.OP_COMMIT_ADL, args).status)

    def live_list(self, opening: int, size: int) -> tuple[int, list[tuple[int, int, int]]]:
        """Allocate, map and commit a list."""
        adl, mappings = self.allocate_adl(opening, size)
        self.map(mappings)
        assert self.commit(opening, adl) == 0
        return adl, mappings

    def free(self, opening: int, adl: int, mappings: list[tuple[int, int, int]]) -> int:
        """Free, unmap and release a list; its NTSTATUS."""
        args = struct.pack("<2Q", opening, adl)
        assert self.request(layout.OP_FREE_ADL, args).status == 0
        for logical, _, size in mappings:
            self.client.dma_unmap(logical, size)
        return int(self.request(layout.OP_RELEASE_ADL, args).status)

    def bytes_of(self, runs: list[tuple[int, int]]) -> bytes:
        """What lies in runs of guest memory."""
        return b"".join(bytes(self.ram.view[base : base + size]) for base, size in runs)
