"""The adapter: a PCI function, its channel, its engine, and the backend behind them.

Threads: the protocol's thread brings register accesses and DMA announcements
and only takes notes; the channel worker runs the backend; the engine worker
moves data.  So no access of the guest ever waits for work of ours.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger

from pyvfio_user import Bar, ConnectionLost, Device, DeviceObserver, IrqType, Mapping, SharedMemory
from vdxgk import allocator, function
from vdxgk.channel import layout
from vdxgk.channel.registers import RegisterPage
from vdxgk.channel.ring import ConsumerRing, ProducerRing, RingBrokenError
from vdxgk.channel.service import RequestService
from vdxgk.display.display import DEFAULT_MODE, Display
from vdxgk.display.edid import Mode
from vdxgk.display.pipe import DisplayPipe
from vdxgk.display.registers import PAGE_SIZE as DISPLAY_REGISTERS_SIZE
from vdxgk.engine import Cancelled, DescriptorPath, Engine, MessagePath
from vdxgk.exclusive_watch import ExclusiveWatch
from vdxgk.faults import Fault, FaultRecord
from vdxgk.function import Link
from vdxgk.memory.backend import Backend, Quotas
from vdxgk.memory.ddi import Bugcheck
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.remapping import RemapFailure
from vdxgk.misbehaviour import MisbehavingPath, Saboteur
from vdxgk.worker import Worker

NOWHERE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """What a user chooses.

    ``dma_bits``: width of the addresses that the device emits, 28..64.
    ``vram``: framebuffer in bytes, a power of two from 4 to 256 MiB.
    ``mode``: what the monitor prefers.
    ``rom``: the image of a boot ROM.
    ``msi``: interrupts by MSI instead of MSI-X; QEMU 11.1 survives the unplug of no other.
    ``misbehave``: allow fault injection.

    Raises ValueError if the mode, at 32 bits per pixel, does not fit in the framebuffer.
    """

    dma_bits: int = 32
    vram: int = 16 << 20
    mode: Mode = DEFAULT_MODE
    rom: bytes | None = None
    dma_policy: Literal["tolerant", "strict"] = "tolerant"
    quotas: Quotas = field(default_factory=Quotas)
    scatter_seed: int = 0
    misbehave: bool = False
    msi: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.mode.width * self.mode.height * 4 > self.vram:
            raise ValueError(f"mode {self.mode} does not fit in {self.vram >> 20} MiB of --vram")


class Adapter(DeviceObserver):
    """One adapter.  ``device`` is what a vfio-user server serves, ``display`` what it shows."""

    def __init__(
        self,
        options: AdapterOptions,
        log: FilteringBoundLogger | None = None,
        link: Link = Link(),  # noqa: B008 - frozen
        lead: Adapter | None = None,
    ) -> None:
        self.options = options
        self.link = link
        self._lead = lead
        self._linked = [self]
        self._log: FilteringBoundLogger = log or structlog.get_logger("vdxgk")
        self.faults = FaultRecord()
        self._channel_worker = Worker("channel", self._serve_channel, self._log)
        self._engine_worker = Worker("engine", self._serve_engine, self._log)
        self.display = Display(options.vram, options.mode)
        self._channel_memory = SharedMemory(function.CHANNEL_BAR_SIZE, "vdxgk-channel")
        self._scanout_worker = Worker("scanout", self._serve_scanout, self._log)
        self.pipe = DisplayPipe(
            self._channel_memory.view[function.SHARED_OFFSET :],
            self._read_for_display,
            wake=self._scanout_worker.wake,
            interrupt=lambda: self._interrupt(layout.VECTOR_SCANOUT),
            on_fault=self._fault,
        )
        self.display.pipe = self.pipe
        self.registers = RegisterPage(
            self.faults,
            self.pipe,
            features=layout.FEATURE_MESSAGE_DMA
            | (layout.FEATURE_FAULT_INJECTION if options.misbehave else 0),
            dma_bits=options.dma_bits,
            framebuffer=options.vram,
            on_reset=self._guest_reset,
            on_channel_doorbell=self._channel_worker.wake,
            on_engine_doorbell=self._engine_worker.wake,
        )
        self.device = Device(
            function.config_space(options.dma_bits, link, msi=options.msi),
            {
                function.FRAMEBUFFER_BAR: Bar(
                    options.vram, memory=self.display.framebuffer, prefetchable=True
                ),
                function.DISPLAY_BAR: Bar(DISPLAY_REGISTERS_SIZE, handler=self.display.registers),
                function.CHANNEL_BAR: Bar(
                    function.CHANNEL_BAR_SIZE,
                    handler=self.registers,
                    memory=self._channel_memory,
                    mmap_areas=[(function.SHARED_OFFSET, function.SHARED_SIZE)],
                ),
            },
            rom=options.rom,
            observer=self,
            dma_policy=options.dma_policy,
        )
        self.backend: Backend = lead.backend if lead else self._new_backend()
        if lead:
            lead._linked.append(self)
            self.backend.link(self.device.dma, options.dma_bits)
        self.watch = ExclusiveWatch(self.device, self._violation)
        self.exclusive_violations = 0
        self.saboteur = Saboteur(self.backend, self._log)
        self._build_channel()
        self._build_engine()
        # Guards what follows, and the rings: a reset replaces all of it at once.
        self._state = threading.Lock()
        # Held while a command is under way: a reset is over when its DMA is.
        self._executing = threading.Lock()
        self._generation = 0
        self._served_generation = 0
        self._powered_off = False
        self._ram = self.backend.ram
        self._old_rams: list[GuestRam] = []  # the next reset lets go of them: of guests' memory
        self._learning = False
        self.connections = 0
        self.connected_now = False

    def _new_backend(self) -> Backend:
        return Backend(
            self.device.dma,
            GuestRam(),
            self,
            dma_bits=self.options.dma_bits,
            quotas=self.options.quotas,
            seed=self.options.scatter_seed,
        )

    def _build_channel(self) -> None:
        shared = self._channel_memory.view[function.SHARED_OFFSET :]
        pending = self.options.quotas.pending
        self._requests = ConsumerRing(
            shared, layout.RING_REQUESTS, layout.SHARED_REQUESTS, 128, pending
        )
        self._completions = ProducerRing(
            shared, layout.RING_COMPLETIONS, layout.SHARED_COMPLETIONS, 128
        )
        self._events = ProducerRing(shared, layout.RING_EVENTS, layout.SHARED_EVENTS, 64)
        self._commands = ConsumerRing(
            shared, layout.RING_COMMANDS, layout.SHARED_COMMANDS, 64, pending
        )
        self._command_completions = ProducerRing(
            shared, layout.RING_COMMAND_COMPLETIONS, layout.SHARED_COMMAND_COMPLETIONS, 64
        )
        self._rings = (
            self._requests,
            self._completions,
            self._events,
            self._commands,
            self._command_completions,
        )
        self._service = RequestService(
            self.backend,
            shared[layout.SHARED_BULK :],
            self._log,
            mutate=self.saboteur.handle,
            violations=lambda: sum(each.watch.violations for each in self._linked),
            takes=lambda: self._lead is None,
            starves=self.saboteur.starves,
        )

    def _build_engine(self) -> None:
        descriptors = DescriptorPath(self.device.dma)
        self.engine = Engine(
            MisbehavingPath(descriptors, self.saboteur, self.backend)
            if self.options.misbehave
            else descriptors,
            MessagePath(self.device.message_dma),
            dma_bits=self.options.dma_bits,
            bus_master=lambda: self.device.config.bus_master_enabled,
            on_fault=self._fault,
            on_failure=self._engine_failed,
        )

    def start(self) -> None:
        """Start the workers."""
        self._channel_worker.start()
        self._engine_worker.start()
        self._scanout_worker.start()

    def stop(self) -> None:
        """Stop the workers; a command under way is given up."""
        with self._state:
            self._generation += 1
        self._scanout_worker.stop()
        self._engine_worker.stop()
        self._channel_worker.stop()

    # ---- what the protocol's thread brings ----------------------------------

    def connected(self) -> None:
        """A client is there; its first mappings show where guest RAM is."""
        self.connections += 1
        self.connected_now = True
        self._learning = True

    def described(self) -> None:
        """The client knows us: what it mapped so far was guest RAM at its own addresses."""
        self._learning = False
        if self._lead is not None:
            return
        if self._ram.known:
            self._log.info(
                "guest memory", size=f"{self._ram.size:#x}", highest=f"{self._ram.highest:#x}"
            )
        elif not len(self.device.dma):
            self._log.warning(
                "the guest's IOMMU was on before the adapter came (hot plug): list checks "
                "see presence and access, not place"
            )
        else:
            self._log.warning(
                "no guest memory came with a descriptor: only protocol messages reach it, and "
                "list checks see presence and access, not place. Give QEMU "
                "'-object memory-backend-memfd,share=on' and 'memory-backend=' to its machine"
            )

    def disconnected(self) -> None:
        """The client is gone, and with it its guest."""
        self.connected_now = False
        self._learning = False
        self.display.forget()
        with self._state:
            self._old_rams.append(self._ram)
            self._ram = GuestRam()
        self._reset(powered_off=True)

    def reset(self) -> None:
        """The machine was reset."""
        self._log.info("device reset")
        self.display.reset()
        self._reset(powered_off=True)

    def _guest_reset(self) -> None:
        self._reset(powered_off=False)

    def dma_mapped(self, mapping: Mapping) -> None:
        """The hypervisor announced a mapping."""
        if self._lead is not None:
            return  # the leading function learns, and counts
        if not self._learning:
            self.backend.announced(mapping.iova)
        elif mapping.backing is not None and mapping.access == 3:
            # Held so that the layout can be read while no mapping refers to the file.
            mapping.backing.acquire()
            self._ram.learn(mapping.iova, mapping.size, mapping.backing, mapping.offset)

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """The hypervisor took a range away."""
        self.pipe.unmapped(iova, size)

    def _reset(self, powered_off: bool) -> None:
        self.pipe.reset()
        with self._state:
            self._generation += 1
            self._powered_off = powered_off
            self.registers.status = 0
        self._channel_worker.wake()

    # ---- the channel worker -------------------------------------------------

    def _serve_channel(self) -> None:
        while self._generation != self._served_generation:
            self._carry_out_reset()
        if not self.registers.status & layout.STATUS_READY:
            return
        try:
            self._drain_requests()
        except RingBrokenError as error:
            self._broken("channel", error)

    def _carry_out_reset(self) -> None:
        with self._state:
            generation, powered_off, ram = self._generation, self._powered_off, self._ram
            old_rams, self._old_rams = self._old_rams, []
        with self._executing:
            pass  # it was cancelled, and no other is taken before the channel is ready
        if self._lead is None:
            with self.backend.lock:
                self.backend.ram = ram
                self.backend.reset()
                for old in old_rams:
                    old.release()
            for each in self._linked:
                each.watch.close()
        self.saboteur.disarm()
        self.faults.reset()
        with self._state:
            if generation != self._generation:
                return  # and once more: it is not the last one
            self._served_generation = generation
            for ring in self._rings:
                ring.reset()
            if not powered_off:
                self._requests.sleep()
                self._commands.sleep()
                self.registers.status = layout.STATUS_READY
        if powered_off:
            allocator.give_back()
        else:
            self._log.info("channel ready")

    def _drain_requests(self) -> None:
        self._requests.wake()
        while True:
            while not self._completions.full and (entry := self._requests.take()) is not None:
                self._completions.put(self._service.handle(entry, self._requests.crowded))
            if self._completions.notify:
                self._interrupt(layout.VECTOR_CHANNEL)
            # A full ring means that the guest does not read: its next doorbell finds us.
            if self._requests.sleep() or self._completions.full:
                return

    # ---- the engine worker --------------------------------------------------

    def _serve_engine(self) -> None:
        try:
            with self._executing:
                while self._execute_next():
                    pass
        except RingBrokenError as error:
            self._broken("engine", error)
        except ConnectionLost:
            self._log.info("engine command lost with the client")
        except Cancelled:
            self._log.info("engine command cancelled by reset")

    def _execute_next(self) -> bool:
        with self._state:
            if not self.registers.status & layout.STATUS_READY or self._command_completions.full:
                return False
            generation = self._generation
            self._commands.wake()
            entry = self._commands.take()
            if entry is None:
                return not self._commands.sleep()
        command = layout.EngineCommand.from_buffer_copy(entry)
        if self._commands.crowded:
            completion = layout.EngineCompletion(fence=command.fence, status=NtStatus.DEVICE_BUSY)
        else:
            completion = self.engine.execute(
                command, cancelled=lambda: self._generation != generation
            )
        with self._state:
            if self._generation != generation:
                return False
            self._command_completions.put(bytes(completion))
            notify = self._command_completions.notify
        if notify:
            self._interrupt(layout.VECTOR_ENGINE)
        return True

    # ---- the display pipe ----------------------------------------------------

    def _serve_scanout(self) -> float | None:
        return self.pipe.work()

    def _read_for_display(self, address: int, target: memoryview, messages: bool) -> None:
        self.engine.check(address, len(target), write=False)
        path = self.engine.path(layout.ENGINE_MESSAGES if messages else 0)
        path.read_into(address, target)

    # ---- what the guest hears of --------------------------------------------

    def _interrupt(self, vector: int) -> None:
        self.device.trigger(IrqType.MSI if self.options.msi else IrqType.MSIX, vector)

    def _broken(self, what: str, error: RingBrokenError) -> None:
        self._log.error("the guest broke a ring; it must reset the channel", ring=what, why=error)
        with self._state:
            self.registers.status = layout.STATUS_BROKEN

    def _emit(self, kind: int, code: int = 0, *parameters: int) -> None:
        event = layout.Event(kind, code)
        event.parameters[: len(parameters)] = parameters
        with self._state:
            if not self.registers.status & layout.STATUS_READY:
                return
            try:
                if not self._events.put(bytes(event)):
                    self._events.count_lost()
                notify = self._events.notify
            except RingBrokenError as error:
                self._log.error("the guest broke the event ring", why=error)
                self.registers.status = layout.STATUS_BROKEN
                return
        if notify:
            self._interrupt(layout.VECTOR_EVENT)

    def _fault(self, fault: Fault) -> None:
        self.faults.add(fault)
        self._log.warning(
            "fault",
            access="write" if fault.write else "read",
            address=f"{fault.address:#x}",
            reason=fault.reason.sentence,
        )
        self._emit(layout.EVENT_FAULT, fault.info, fault.address, fault.size)

    def _engine_failed(self, error: Exception) -> None:
        self._log.error("internal error", engine="a command was given up", exc_info=error)

    def remap_failure(self, adl: int, failure: RemapFailure) -> None:
        """A list was not mapped, or not unmapped, as asked."""
        self._log.error(
            "remapping failure",
            list=f"{adl:#x}",
            page=f"{failure.logical:#x}",
            what=failure.reason,
            expected=_address(failure.expected),
            found=_address(failure.found),
            access=failure.access,
            function=failure.function,
        )
        self._emit(
            layout.EVENT_REMAP_FAILURE,
            0,
            adl,
            failure.logical,
            NOWHERE if failure.expected is None else failure.expected,
            NOWHERE if failure.found is None else failure.found,
            failure.access,
            failure.function,
        )

    def bugcheck(self, code: Bugcheck, parameter1: int, reason: str) -> None:
        """Windows would stop here."""
        self._log.error(
            "bugcheck", code=f"{code:#x} {code.name}", parameter1=f"{parameter1:#x}", reason=reason
        )
        self._emit(layout.EVENT_BUGCHECK, code, parameter1)

    def exclusive_access(self, begun: bool) -> None:
        """The guest's Dxgkrnl switches domains; until it is done there is no DMA."""
        for each in self._linked:
            if begun:
                each.watch.open()
            else:
                each.watch.close()
        self._log.info("exclusive access" if begun else "exclusive access is over")
        if begun:
            self.saboteur.exclusive_access(self.device.dma)

    def _violation(self, address: int, size: int, write: bool) -> None:
        self.exclusive_violations += 1
        self._log.error(
            "DMA within exclusive access",
            access="write" if write else "read",
            address=f"{address:#x}",
            size=size,
        )
        code = layout.FAULT_WRITE if write else 0
        self._emit(layout.EVENT_EXCLUSIVE_VIOLATION, code, address, size)

    def memory_surplus(self) -> None:
        """The guest may reclaim blocks."""
        self._emit(layout.EVENT_MEMORY_SURPLUS)


def _address(value: int | None) -> str:
    return "nothing" if value is None else f"{value:#x}"
