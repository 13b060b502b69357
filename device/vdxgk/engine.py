"""The DMA engine: what a GPU's command processor does to memory, made small.

It knows logical addresses only.  Every access goes through what the
hypervisor announced (descriptors), or through protocol messages that the
hypervisor translates itself; a command chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

from isal import isal_zlib

from pyvfio_user import (
    Access,
    ConnectionLost,
    DmaAccess,
    DmaFault,
    DmaTable,
    MessageDmaError,
)
from pyvfio_user import FaultReason as DmaFaultReason
from vdxgk.channel import layout
from vdxgk.faults import AccessRefused, Fault, FaultReason
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid
from vdxgk.memory.pages import PAGE_SIZE, align_down

if TYPE_CHECKING:
    from vdxgk.page_moves import Buffer

LEAST_RUNS = 16
"""Runs of an access from which on they may be worth moving many at a time."""


class MemoryPath(Protocol):
    """One way to memory.  Raises AccessRefused; a refused write has stored nothing."""

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes."""

    def read_into(self, address: int, target: memoryview) -> None:
        """Fill ``target``."""

    def write(self, address: int, data: bytes) -> None:
        """Store ``data``."""

    def crc32(self, address: int, size: int, crc: int) -> int:
        """Continue ``crc`` over ``size`` bytes."""

    def copy(self, source: int, destination: int, size: int) -> None:
        """Move ``size`` bytes."""


_REASONS = {
    DmaFaultReason.UNMAPPED: FaultReason.UNMAPPED,
    DmaFaultReason.FORBIDDEN: FaultReason.FORBIDDEN,
    DmaFaultReason.INACCESSIBLE: FaultReason.INACCESSIBLE,
    DmaFaultReason.OUT_OF_RANGE: FaultReason.ADDRESS_WIDTH,
}


class DescriptorPath:
    """Through the DMA table, at memory speed; our table is what checks."""

    def __init__(self, table: DmaTable) -> None:
        self._table = table

    def read(self, address: int, size: int) -> bytes:
        """See MemoryPath."""
        with _as_refusal(size), self._table.access(address, size, Access.READ) as spans:
            return b"".join(span.read() for span in spans)

    def read_into(self, address: int, target: memoryview) -> None:
        """See MemoryPath.  What is behind the last whole page goes by itself."""
        whole = 0 if address % PAGE_SIZE else align_down(len(target), PAGE_SIZE)
        for part, at in ((target[:whole], address), (target[whole:], address + whole)):
            if part:
                self._fill(part, at)

    def _fill(self, target: memoryview, address: int) -> None:
        size = len(target)
        buffer = self._buffer_for(size)
        with _as_refusal(size), self._table.access(address, size, Access.READ) as spans:
            if buffer and len(spans) >= LEAST_RUNS and buffer.read(spans, target):
                return
            for span in spans:
                start = span.iova - address
                target[start : start + span.size] = span.read()

    def write(self, address: int, data: bytes) -> None:
        """See MemoryPath."""
        view = memoryview(data)
        with _as_refusal(len(data)), self._table.access(address, len(data), Access.WRITE) as spans:
            for span in spans:
                start = span.iova - address
                span.write(view[start : start + span.size])

    def crc32(self, address: int, size: int, crc: int) -> int:
        """See MemoryPath."""
        buffer = self._buffer_for(size)
        with _as_refusal(size), self._table.access(address, size, Access.READ) as spans:
            if buffer and len(spans) >= LEAST_RUNS:
                result = buffer.crc32(spans, crc)
                if result is not None:
                    return result
            for span in spans:
                crc = isal_zlib.crc32(span.read(), crc)
        return crc

    def copy(self, source: int, destination: int, size: int) -> None:
        """See MemoryPath.

        In bounded pieces, so where the two share memory it is not defined
        which of the source's bytes the shared part holds in the end.
        """
        buffer = self._buffer_for(size)
        with (
            _as_refusal(size),
            self._table.access(source, size, Access.READ) as sources,
            self._table.access(destination, size, Access.WRITE) as destinations,
        ):
            many = len(sources) + len(destinations) >= LEAST_RUNS
            if not (buffer and many and buffer.copy(sources, destinations)):
                _copy_spans(sources, destinations)

    def _buffer_for(self, size: int) -> Buffer | None:
        """For a range that may have many runs.  The table must not be held: it may take a while."""
        return self._buffer if size >= LEAST_RUNS * PAGE_SIZE else None

    @cached_property
    def _buffer(self) -> Buffer:
        # numpy is 25 MiB that an idle device need not hold.
        from vdxgk.page_moves import Buffer  # noqa: PLC0415

        return Buffer()


def _copy_spans(sources: DmaAccess, destinations: DmaAccess) -> None:
    """Straight from file to file, with no buffer between."""
    targets = iter(destinations)
    target, used = next(targets), 0
    for span in sources:
        data = memoryview(span.read())
        while data:
            if used == target.size:
                target, used = next(targets), 0
            count = min(len(data), target.size - used)
            target.write(data[:count], used)
            data = data[count:]
            used += count


class MessageClient(Protocol):
    """The protocol library's door for DMA by messages."""

    def read(self, iova: int, count: int) -> bytes:
        """``count`` bytes; raises MessageDmaError."""

    def write(self, iova: int, data: bytes) -> None:
        """Store ``data``; raises MessageDmaError."""


class MessagePath:
    """By protocol messages: the hypervisor's IOMMU translates, checks, and logs faults."""

    def __init__(self, client: MessageClient) -> None:
        self._client = client

    def read(self, address: int, size: int) -> bytes:
        """See MemoryPath."""
        try:
            return self._client.read(address, size)
        except MessageDmaError as error:
            raise _refused(error.iova, size, False, FaultReason.REFUSED) from error

    def read_into(self, address: int, target: memoryview) -> None:
        """See MemoryPath."""
        target[:] = self.read(address, len(target))

    def write(self, address: int, data: bytes) -> None:
        """See MemoryPath."""
        try:
            self._client.write(address, data)
        except MessageDmaError as error:
            raise _refused(error.iova, len(data), True, FaultReason.REFUSED) from error

    def crc32(self, address: int, size: int, crc: int) -> int:
        """See MemoryPath."""
        return isal_zlib.crc32(self.read(address, size), crc)

    def copy(self, source: int, destination: int, size: int) -> None:
        """See MemoryPath."""
        self.write(destination, self.read(source, size))


def _refused(address: int, size: int, write: bool, reason: FaultReason) -> AccessRefused:
    return AccessRefused(Fault(address, size, write, reason))


@contextmanager
def _as_refusal(size: int) -> Iterator[None]:
    try:
        yield
    except DmaFault as fault:
        raise _refused(
            fault.address, size, bool(fault.access & Access.WRITE), _REASONS[fault.reason]
        ) from fault


LAST_ADDRESS = (1 << 64) - 1


class Cancelled(Exception):  # noqa: N818 - not an error
    """The device was reset under the command."""


class Engine:
    """Executes commands, one after another, in bounded steps.

    ``bus_master`` tells whether the guest lets the function master the bus;
    ``dma_bits`` is the width of the addresses that it can emit.
    """

    STEPS: ClassVar = {0: 2 << 20, layout.ENGINE_MESSAGES: 64 << 10}
    """Bytes per step, by path: an unmap waits for one step at most."""

    def __init__(
        self,
        descriptors: MemoryPath,
        messages: MemoryPath,
        *,
        dma_bits: int,
        bus_master: Callable[[], bool],
        on_fault: Callable[[Fault], None] = lambda fault: None,
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """``on_failure`` is told, while it is handled, of an error of this host, or of ours."""
        self._paths = {0: descriptors, layout.ENGINE_MESSAGES: messages}
        self._limit = 1 << dma_bits
        self._bus_master = bus_master
        self._on_fault = on_fault
        self._on_failure = on_failure
        self.commands = 0
        """Commands taken so far, and the bytes that they moved; a copy counts in both."""
        self.bytes_read = 0
        self.bytes_written = 0

    def execute(
        self, command: layout.EngineCommand, cancelled: Callable[[], bool] = lambda: False
    ) -> layout.EngineCompletion:
        """Run ``command``; whatever happens becomes a completion.

        After a fault ``done`` bytes have been transferred, all before the
        fault's address; nothing behind it has been touched, on the descriptor
        path.  A message that QEMU refuses may have stored some of its bytes.
        What fails on this host is INSUFFICIENT_RESOURCES.
        Raises Cancelled, ConnectionLost.
        """
        self.commands += 1
        completion = layout.EngineCompletion(fence=command.fence)
        job = _Job(self, command, cancelled)
        try:
            job.run()
        except Refused as refusal:
            completion.status = refusal.status
        except AccessRefused as refusal:
            self._on_fault(refusal.fault)
            completion.status = NtStatus.UNSUCCESSFUL
            completion.fault = refusal.fault.info
            completion.fault_address = refusal.fault.address
        except (Cancelled, ConnectionLost):
            raise
        except Exception as error:
            # The guest waits for a completion, and a reset would be its only way out.
            self._on_failure(error)
            completion.status = NtStatus.INSUFFICIENT_RESOURCES
        completion.done = job.done
        completion.result = job.crc
        return completion

    def path(self, flags: int) -> MemoryPath:
        """The way to memory that a command's flags choose."""
        return self._paths[flags]

    def check(self, address: int, size: int, write: bool) -> None:
        """What the function itself refuses, before anybody translates."""
        if not self._bus_master():
            raise _refused(address, size, write, FaultReason.BUS_MASTER_OFF)
        if address + size > self._limit:
            # With 64 bits the first byte beyond has no address: the last one stands for it.
            beyond = min(max(address, self._limit), LAST_ADDRESS)
            raise _refused(beyond, size, write, FaultReason.ADDRESS_WIDTH)


class _Job:
    """One command under way."""

    def __init__(
        self, engine: Engine, command: layout.EngineCommand, cancelled: Callable[[], bool]
    ) -> None:
        self._engine = engine
        self._command = command
        self._cancelled = cancelled
        self.done = 0
        self.crc = 0

    def run(self) -> None:
        command = self._command
        steps = {
            layout.ENGINE_COPY: self._copy,
            layout.ENGINE_FILL: self._fill,
            layout.ENGINE_CRC32: self._crc32,
        }
        if command.flags not in Engine.STEPS:
            raise invalid(f"flags {command.flags:#x} of an engine command")
        if command.size > layout.ENGINE_MAX_SIZE:
            raise invalid(f"size {command.size:#x} of an engine command")
        if command.op == layout.ENGINE_NOP:
            return
        if command.op not in steps:
            raise Refused(NtStatus.INVALID_DEVICE_REQUEST, f"engine command {command.op}")
        step = steps[command.op]
        path = self._engine.path(command.flags)
        while self.done < command.size:
            if self._cancelled():
                raise Cancelled
            size = min(Engine.STEPS[command.flags], command.size - self.done)
            try:
                step(path, size)
            except AccessRefused as refusal:
                self._finish_before(refusal.fault, path, step, size)
                raise
            self.done += size

    def _finish_before(
        self, fault: Fault, path: MemoryPath, step: Callable[[MemoryPath, int], None], size: int
    ) -> None:
        """Transfer what lies before the faulting address: ``done`` is then exact."""
        base = self._command.destination if fault.write else self._command.source
        before = fault.address - base - self.done
        if 0 < before < size:
            try:
                step(path, before)
            except AccessRefused:
                return  # the mapping went away in between: the first fault stands
            self.done += before

    def _copy(self, path: MemoryPath, size: int) -> None:
        path.copy(self._source(size), self._destination(size), size)
        self._engine.bytes_read += size
        self._engine.bytes_written += size

    def _fill(self, path: MemoryPath, size: int) -> None:
        destination = self._destination(size)
        path.write(
            destination, word_sequence(self._command.value, self._command.step, self.done, size)
        )
        self._engine.bytes_written += size

    def _crc32(self, path: MemoryPath, size: int) -> None:
        self.crc = path.crc32(self._source(size), size, self.crc)
        self._engine.bytes_read += size

    def _source(self, size: int) -> int:
        address: int = self._command.source + self.done
        self._engine.check(address, size, write=False)
        return address

    def _destination(self, size: int) -> int:
        address: int = self._command.destination + self.done
        self._engine.check(address, size, write=True)
        return address


def word_sequence(value: int, step: int, offset: int, size: int) -> bytes:
    """Bytes [offset, offset + size) of the little-endian 64-bit words value + i * step.

    ``offset`` is a multiple of 8; arithmetic wraps at 2^64.
    """
    import numpy as np  # noqa: PLC0415 - 25 MiB that an idle device need not hold

    first = offset // 8
    words = np.arange(first, first + (size + 7) // 8, dtype=np.uint64)
    words *= np.uint64(step)
    words += np.uint64(value)
    return words.astype("<u8", copy=False).tobytes()[:size]
