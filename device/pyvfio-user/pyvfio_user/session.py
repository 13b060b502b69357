"""One client's session with a device: requests in, replies out, no socket.

Whatever happens in a handler, a request that wants a reply gets one: a client
such as QEMU stands still until it comes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import feature, version, wire
from .addresses import ADDRESS_END
from .connection import Connection, close_descriptors
from .device import CONFIG_REGION, REGIONS, Device
from .errors import RemoteProtocolError
from .hot import HotPath, Outgoing
from .irq import IrqType
from .runs import ACCESSES
from .wire import Command, Message

if TYPE_CHECKING:
    from .bulk import Piece
    from .log import Logger
    from .trace import TraceWriter

LOGGED_REFUSALS = 100  # for each client: a hostile one must not fill the disk
_TAKES_FROM_THE_HOST = {Command.DMA_MAP, Command.DEVICE_SET_IRQS}  # memory, descriptors, threads
MULTI_WRITE_SIZE = 8
MOST_HELD = 256 << 10  # bytes of answers; one request of 32 bytes may have one of a MiB


class Session:
    """Answers a client.  All methods belong to the protocol thread."""

    def __init__(
        self,
        device: Device,
        log: Logger,
        send: Callable[[bytes], None],
        *,
        offer: version.Capabilities,
        deliver: Callable[[list[Outgoing]], None] | None = None,
        trace: TraceWriter | None = None,
    ) -> None:
        """`send` sends one message from any thread, for DMA by messages.

        `deliver` sends answers that are too long to wait for others, and may raise what
        ends the session.  What comes is noted in `trace`; what goes is for who sends it
        to note.
        """
        self.connection = Connection()
        self.closing = False  # nothing more can be understood or is wanted
        self.negotiated = False
        self._hot: HotPath | None = None
        self._device = device
        self._log = log
        self._send = send
        self._deliver = deliver
        self._held = (
            0  # bytes of answers since the last delivery, those of the hot path not counted
        )
        self._trace = trace
        self._offer = offer
        self._max_data_xfer = wire.DEFAULT_MAX_DATA_XFER
        self._max_descriptors = wire.DEFAULT_MAX_MSG_FDS
        self._described = False
        self._refusals = 0

    def receive(
        self,
        count: int,
        descriptors: list[int] | None = None,
        *,
        short: bool = False,
        after: list[Outgoing] | None = None,
    ) -> list[Outgoing]:
        """Handle what came, in order, and return the answers.  Takes over the descriptors.

        They stand behind those in `after`, in the same list.
        """
        if after is None:
            self._held = 0
        outgoing: list[Outgoing] = [] if after is None else after
        connection, fresh = self.connection, descriptors or []
        if self._hot is not None and not short and connection.is_plain:
            start, end = connection.start, connection.end + count
            start = self._hot.answer(connection.buffer, start, end, fresh, outgoing)
            connection.start = start
            if start == end and not fresh:
                connection.end = end
                return outgoing
        messages = connection.receive(count, fresh, short=short)
        try:
            for message in messages:
                if self._trace is not None:
                    self._trace.received(message)
                if not self.closing:
                    self._handle(message, outgoing)
                close_descriptors(message.descriptors)
                if self._held > MOST_HELD and self._deliver is not None:
                    self._deliver(outgoing)
                    outgoing.clear()
                    self._held = 0
        except RemoteProtocolError as error:
            self._log.warning("stream_lost", reason=str(error))
            self.closing = True
        return outgoing

    def receive_many(
        self, buffer: memoryview, pieces: Sequence[Piece], outgoing: list[Outgoing]
    ) -> None:
        """Handle what came in pieces beside the connection's buffer; append the answers.

        Takes over the descriptors, even when this raises.
        """
        connection, hot = self.connection, self._hot
        at = 0
        try:
            while at < len(pieces) and not self.closing:
                if hot is not None and connection.is_empty:
                    at += hot.answer_pieces(buffer, pieces[at:], outgoing)
                    if at == len(pieces):
                        break
                start, end, fresh, short = pieces[at]
                at += 1
                connection.get_buffer()[: end - start] = buffer[start:end]
                self.receive(end - start, fresh, short=short, after=outgoing)
        finally:
            for _, _, fresh, _ in pieces[at:]:
                close_descriptors(fresh)

    def lost(self) -> None:
        """The client has gone: let go of all that was its own ("Client Disconnection")."""
        self.connection.close()
        self._device.message_dma.detach()
        self._device.dma.clear()
        self._device.dma.dirty.stop()
        self._device.migration.disconnected()
        self._device.irqs.clear()
        if self._refusals > LOGGED_REFUSALS:
            self._log.warning("refusals_not_logged", count=self._refusals - LOGGED_REFUSALS)
        if self.negotiated:
            self._notify(self._device.observer.disconnected)

    def _handle(self, message: Message, outgoing: list[Outgoing]) -> None:
        if message.is_reply:
            if not self._device.message_dma.receive(message):
                self._refuse(message.command, errno.EINVAL, "a reply that nobody waits for")
            return
        try:
            fields = wire.decode(message)
            handler = _HANDLERS[message.command] if self.negotiated else Session._negotiate
            payload, descriptors = handler(self, fields, message)
        except Exception as error:
            code = self._failed(message.command, error)
        else:
            if message.wants_reply:
                outgoing.append((wire.reply(message.id, message.command, payload), descriptors))
                self._held += len(payload)
            return
        if message.wants_reply:
            outgoing.append((wire.error_reply(message.id, message.command, code), ()))

    def _failed(self, command: int, error: Exception) -> int:
        """Log what a request ran into; return the errno for the client."""
        if isinstance(error, RemoteProtocolError):
            self._refuse(command, error.errno, str(error))
            self.closing |= not self.negotiated
            return error.errno
        code = (isinstance(error, OSError) and error.errno) or errno.EIO
        if isinstance(error, OSError) and command in _TAKES_FROM_THE_HOST:
            self._refuse(command, code, f"this host: {error}")
            return code
        # A device model's mistake must not stop the client.
        self._refusals += 1
        if self._refusals <= LOGGED_REFUSALS:
            self._log.error("handler_failed", command=_name(command), exc_info=error)
        return code

    def _refuse(self, command: int, code: int, reason: str) -> None:
        self._refusals += 1
        if self._refusals <= LOGGED_REFUSALS:
            self._log.warning("refused", command=_name(command), errno=code, reason=reason)

    def _notify(self, call: Callable[..., None], *arguments: object) -> None:
        """Tell the observer; its mistakes do not change the client's answer."""
        try:
            call(*arguments)
        except Exception as error:
            self._log.error("observer_failed", call=call.__name__, exc_info=error)

    # ---- one method for each command ---------------------------------------

    def _negotiate(self, _fields: tuple[Any, ...], message: Message) -> Outgoing:
        if message.command != Command.VERSION:
            raise RemoteProtocolError(errno.EINVAL, "the first message must be VERSION")
        payload, peer, limit = version.answer(bytes(message.payload), self._offer)
        self._max_data_xfer = limit
        self._max_descriptors = min(peer.max_msg_fds, wire.MAX_DESCRIPTORS)
        self.connection.limit = wire.HEADER_SIZE + wire.REGION_ACCESS.size + limit
        self.negotiated = True
        if self._trace is None:  # which wants to see every `Message`
            self._hot = HotPath(self._device, self._failed, self._notify)
        self._device.message_dma.attach(self._send, peer.max_data_xfer_size)
        self._notify(self._device.observer.connected)
        return payload, ()

    def _version_again(self, _fields: tuple[Any, ...], _message: Message) -> Outgoing:
        raise RemoteProtocolError(errno.EINVAL, "VERSION comes once")

    def _dma_map(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        _argsz, flags, offset, iova, size = fields
        if flags & ~wire.DMA_MAP_FLAGS:
            raise RemoteProtocolError(errno.EINVAL, f"DMA_MAP flags {flags:#x}")
        descriptor = message.descriptors.pop() if message.descriptors else None
        mapping = self._device.dma.map(iova, size, ACCESSES[flags], descriptor, offset)
        self._notify(self._device.observer.dma_mapped, mapping)
        return b"", ()

    def _dma_unmap(self, fields: tuple[Any, ...], _message: Message) -> Outgoing:
        argsz, flags, iova, size = fields
        dma = self._device.dma
        if flags == wire.DMA_UNMAP_ALL and dma.policy == "tolerant":
            if iova or size:
                raise RemoteProtocolError(errno.EINVAL, "UNMAP_ALL of a range")
            removed = dma.unmap_all()
            self._notify(self._device.observer.dma_unmapped, 0, ADDRESS_END, removed)
        elif flags:
            raise RemoteProtocolError(errno.EINVAL, f"DMA_UNMAP flags {flags:#x}")
        else:
            removed = dma.unmap(iova, size)
            self._notify(self._device.observer.dma_unmapped, iova, size, removed)
        return wire.DMA_UNMAP.pack(argsz, flags, iova, size), ()

    def _get_info(self, _fields: tuple[Any, ...], _message: Message) -> Outgoing:
        if not self._described:
            self._described = True
            self._notify(self._device.observer.described)
        flags = wire.DEVICE_FLAGS_RESET | wire.DEVICE_FLAGS_PCI
        size = wire.DEVICE_INFO.size
        return wire.DEVICE_INFO.pack(size, flags, REGIONS, len(IrqType)), ()

    def _get_region_info(self, fields: tuple[Any, ...], _message: Message) -> Outgoing:
        argsz, index = fields[0], fields[2]
        if index >= REGIONS:
            raise RemoteProtocolError(errno.EINVAL, f"region {index}")
        fixed = wire.REGION_INFO.size
        bar = self._device.regions.get(index)
        if bar is None:
            size = self._device.config.size if index == CONFIG_REGION else 0
            flags = wire.REGION_READ | wire.REGION_WRITE if size else 0
            return wire.REGION_INFO.pack(fixed, flags, index, 0, size, 0), ()
        flags, cap_offset, capabilities = bar.info_flags(), 0, bar.capabilities()
        needed = fixed + len(capabilities)
        if argsz < needed:  # "the full payload is not included in the reply"
            capabilities = b""
        elif capabilities:
            flags, cap_offset = flags | wire.REGION_CAPS, fixed
        payload = wire.REGION_INFO.pack(needed, flags, index, cap_offset, bar.size, 0)
        shared = bar.memory.fd if bar.areas and bar.memory else None
        return payload + capabilities, () if shared is None else (shared,)

    def _get_region_io_fds(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        argsz, flags, index, count = fields
        if flags or count or index >= REGIONS:
            raise RemoteProtocolError(errno.EINVAL, f"region {index}, {flags:#x}, {count}")
        bar = self._device.regions.get(index)
        if bar is None or not bar.ioeventfds:
            return self._unsupported(fields, message)
        sub_regions, descriptors = bar.io_fds()
        if len(descriptors) > self._max_descriptors:
            raise RemoteProtocolError(errno.ENOSPC, f"max_msg_fds is below {len(descriptors)}")
        needed = wire.REGION_IO_FDS.size + len(sub_regions)
        fixed = wire.REGION_IO_FDS.pack(needed, 0, index, len(bar.ioeventfds))
        if argsz < needed:  # "the full payload is not included in the reply"
            return fixed, ()
        return fixed + sub_regions, descriptors

    def _get_irq_info(self, fields: tuple[Any, ...], _message: Message) -> Outgoing:
        index = fields[2]
        flags, count = self._device.irqs.info(index)
        return wire.IRQ_INFO.pack(wire.IRQ_INFO.size, flags, index, count), ()

    def _set_irqs(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        _argsz, flags, index, start, count = fields
        data = bytes(message.payload[wire.IRQ_SET.size :])
        self._device.irqs.set(
            flags, index, start, count, data=data, descriptors=message.descriptors
        )
        return b"", ()

    def _region_read(self, fields: tuple[Any, ...], _message: Message) -> Outgoing:
        offset, index, count = fields
        self._check_access(index, offset, count)
        if index == CONFIG_REGION:
            data = self._device.config.read(offset, count)
        else:
            data = self._device.regions[index].read(offset, count)
        return wire.REGION_ACCESS.pack(offset, index, count) + data, ()

    def _region_write(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        offset, index, count = fields
        data = bytes(message.payload[wire.REGION_ACCESS.size :])
        if len(data) != count:
            raise RemoteProtocolError(errno.EINVAL, f"{len(data)} bytes of data for {count}")
        self._write(index, offset, data)
        return wire.REGION_ACCESS.pack(offset, index, count), ()

    def _region_write_multi(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        if not self._offer.write_multiple:
            raise RemoteProtocolError(errno.ENOTSUP, "write_multiple was not negotiated")
        (count,) = fields
        entries = message.payload[wire.WRITE_MULTI.size :]
        if len(entries) != count * wire.WRITE_MULTI_ENTRY.size:
            raise RemoteProtocolError(errno.EINVAL, f"{len(entries)} bytes for {count} writes")
        for offset, index, size, data in wire.WRITE_MULTI_ENTRY.iter_unpack(entries):
            if size > MULTI_WRITE_SIZE:
                raise RemoteProtocolError(errno.EINVAL, f"a write of {size} bytes among many")
            self._write(index, offset, data[:size])
        return wire.WRITE_MULTI.pack(count), ()

    def _reset(self, _fields: tuple[Any, ...], _message: Message) -> Outgoing:
        self._device.reset()
        return b"", ()

    def _device_feature(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        argsz, flags = fields
        data = bytes(message.payload[wire.FEATURE.size :])
        room = min(argsz - wire.FEATURE.size, self._max_data_xfer)
        found = self._device.features.handle(flags, data, room)
        if flags & (feature.GET | feature.PROBE) == feature.GET:
            argsz = wire.FEATURE.size + len(found)
        return wire.FEATURE.pack(argsz, flags) + found, ()

    def _migration_read(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        argsz, size = fields
        if not self._device.migration.is_supported:
            return self._unsupported(fields, message)
        if size > min(argsz - wire.MIGRATION_DATA.size, self._max_data_xfer):
            raise RemoteProtocolError(errno.EINVAL, f"{size} bytes of state")
        data = self._device.migration.read(size)
        return wire.MIGRATION_DATA.pack(wire.MIGRATION_DATA.size + len(data), len(data)) + data, ()

    def _migration_write(self, fields: tuple[Any, ...], message: Message) -> Outgoing:
        _argsz, size = fields
        if not self._device.migration.is_supported:
            return self._unsupported(fields, message)
        data = bytes(message.payload[wire.MIGRATION_DATA.size :])
        if len(data) != size or size > self._max_data_xfer:
            raise RemoteProtocolError(errno.EINVAL, f"{len(data)} bytes of state for {size}")
        self._device.migration.write(data)
        return b"", ()

    def _unsupported(self, _fields: tuple[Any, ...], message: Message) -> Outgoing:
        raise RemoteProtocolError(errno.ENOTSUP, f"{_name(message.command)} is not supported")

    # ---- region accesses ---------------------------------------------------

    def _write(self, index: int, offset: int, data: bytes) -> None:
        self._check_access(index, offset, len(data))
        if index == CONFIG_REGION:
            self._device.config.write(offset, data)
        else:
            self._device.regions[index].write(offset, data)

    def _check_access(self, index: int, offset: int, count: int) -> None:
        bar = self._device.regions.get(index)
        size = bar.size if bar else self._device.config.size if index == CONFIG_REGION else 0
        if not size:
            raise RemoteProtocolError(errno.EINVAL, f"no region {index}")
        if count > self._max_data_xfer or offset + count > size:
            raise RemoteProtocolError(
                errno.EINVAL, f"{count} bytes at {offset:#x} of region {index}"
            )


_HANDLERS: dict[int, Callable[[Session, tuple[Any, ...], Message], Outgoing]] = {
    Command.VERSION: Session._version_again,
    Command.DMA_MAP: Session._dma_map,
    Command.DMA_UNMAP: Session._dma_unmap,
    Command.DEVICE_GET_INFO: Session._get_info,
    Command.DEVICE_GET_REGION_INFO: Session._get_region_info,
    Command.DEVICE_GET_REGION_IO_FDS: Session._get_region_io_fds,
    Command.DEVICE_GET_IRQ_INFO: Session._get_irq_info,
    Command.DEVICE_SET_IRQS: Session._set_irqs,
    Command.REGION_READ: Session._region_read,
    Command.REGION_WRITE: Session._region_write,
    Command.DMA_READ: Session._unsupported,
    Command.DMA_WRITE: Session._unsupported,
    Command.DEVICE_RESET: Session._reset,
    Command.REGION_WRITE_MULTI: Session._region_write_multi,
    Command.DEVICE_FEATURE: Session._device_feature,
    Command.MIG_DATA_READ: Session._migration_read,
    Command.MIG_DATA_WRITE: Session._migration_write,
}


def _name(command: int) -> str:
    try:
        return Command(command).name
    except ValueError:
        return str(command)
