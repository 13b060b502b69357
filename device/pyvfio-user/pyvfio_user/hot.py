"""The requests that come by the thousand, answered without a `Message` for each.

Small accesses of BARs, DMA_MAP and DMA_UNMAP, whole and well-formed.  Whatever
is not exactly that is left to the session, so that what is wrong with a
message is said in one place, and a test compares the two ways.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from . import wire
from .errors import Access
from .wire import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from .device import Device

Outgoing = tuple[bytes, tuple[int, ...]]  # a message, and the descriptors that go with it

SMALL = 8  # bytes: the largest access of a register
ACCESSES = tuple(Access(flags) for flags in range(wire.DMA_MAP_FLAGS + 1))


def _with_header(fields: struct.Struct) -> struct.Struct:
    return struct.Struct(wire.HEADER.format + fields.format[1:])


# Names of their own, and plain numbers: each look-up less counts here.
_KIND = struct.Struct("=xxHI")  # of a header: command, size
_pack_header, _HEADER_SIZE = wire.HEADER.pack, wire.HEADER_SIZE
_ACCESS = _with_header(wire.REGION_ACCESS)
_unpack_access, _pack_access, _ACCESS_SIZE = _ACCESS.unpack_from, _ACCESS.pack, _ACCESS.size
_MAP = _with_header(wire.DMA_MAP)
_unpack_map, _MAP_SIZE, _MAP_ARGSZ = _MAP.unpack_from, _MAP.size, wire.DMA_MAP.size
_UNMAP = _with_header(wire.DMA_UNMAP)
_unpack_unmap, _pack_unmap, _UNMAP_SIZE = _UNMAP.unpack_from, _UNMAP.pack, _UNMAP.size
_UNMAP_ARGSZ = wire.DMA_UNMAP.size
_MAP_FLAGS = wire.DMA_MAP_FLAGS
_REPLY, _NO_REPLY = wire.TYPE_REPLY, wire.FLAG_NO_REPLY


class HotPath:
    """Belongs to a session that has been negotiated."""

    def __init__(
        self,
        device: Device,
        failed: Callable[[int, Exception], int],
        observer_failed: Callable[[str, Exception], None],
    ) -> None:
        """`failed(command, error)` tells of an error and says which errno the client gets."""
        self._regions = device.regions
        self._dma = device.dma
        self._observer = device.observer
        self._failed = failed
        self._observer_failed = observer_failed
        self._common: dict[int, Callable[[memoryview, int, int, list[int]], bytes | None]] = {
            Command.REGION_READ: self._read,
            Command.REGION_WRITE: self._write,
            Command.DMA_MAP: self._map,
            Command.DMA_UNMAP: self._unmap,
        }

    def answer(
        self,
        buffer: memoryview,
        start: int,
        end: int,
        descriptors: list[int],
        outgoing: list[Outgoing],
    ) -> int:
        """Answer the messages in [start, end) of the buffer as far as possible; return how far.

        `descriptors` came with the last of them, which takes them or is left.
        """
        kind, common, answered = _KIND.unpack_from, self._common, outgoing.append
        while end - start >= _HEADER_SIZE:
            command, size = kind(buffer, start)
            stop = start + size
            handler = common.get(command)
            if handler is None or stop > end:
                break
            try:
                reply = handler(buffer, start, stop, descriptors if stop == end else [])
            except Exception as error:
                message_id, _, _, flags, _ = wire.HEADER.unpack_from(buffer, start)
                code = self._failed(command, error)
                reply = b"" if flags else wire.error_reply(message_id, command, code)
            if reply is None:
                break
            if reply:
                answered((reply, ()))
            start = stop
        return start

    # ---- one method for each command: the reply, if there is one; None for what is not common ----

    def _read(self, buffer: memoryview, start: int, stop: int, fds: list[int]) -> bytes | None:
        size = stop - start
        if size != _ACCESS_SIZE or fds:
            return None
        message_id, command, _, flags, _, offset, index, count = _unpack_access(buffer, start)
        bar = self._regions.get(index)
        if flags or bar is None or count > SMALL or offset + count > bar.size:
            return None
        data = bar.read(offset, count)
        size += count
        return _pack_access(message_id, command, size, _REPLY, 0, offset, index, count) + data

    def _write(self, buffer: memoryview, start: int, stop: int, fds: list[int]) -> bytes | None:
        if stop - start < _ACCESS_SIZE or fds:
            return None
        message_id, command, size, flags, _, offset, index, count = _unpack_access(buffer, start)
        bar = self._regions.get(index)
        if flags & ~_NO_REPLY or bar is None or count > SMALL or offset + count > bar.size:
            return None
        if size != _ACCESS_SIZE + count:
            return None
        bar.write(offset, bytes(buffer[start + _ACCESS_SIZE : stop]))
        if flags:
            return b""
        return _pack_access(message_id, command, _ACCESS_SIZE, _REPLY, 0, offset, index, count)

    def _map(self, buffer: memoryview, start: int, stop: int, fds: list[int]) -> bytes | None:
        if stop - start != _MAP_SIZE or len(fds) > 1:
            return None
        message_id, command, _, bits, _, argsz, flags, offset, iova, size = _unpack_map(
            buffer, start
        )
        if bits or argsz != _MAP_ARGSZ or flags > _MAP_FLAGS:
            return None
        descriptor = fds.pop() if fds else None
        mapping = self._dma.map(iova, size, ACCESSES[flags], descriptor, offset)
        try:
            self._observer.dma_mapped(mapping)
        except Exception as error:
            self._observer_failed("dma_mapped", error)
        return _pack_header(message_id, command, _HEADER_SIZE, _REPLY, 0)

    def _unmap(self, buffer: memoryview, start: int, stop: int, fds: list[int]) -> bytes | None:
        if stop - start != _UNMAP_SIZE or fds:
            return None
        message_id, command, length, bits, _, argsz, flags, iova, size = _unpack_unmap(
            buffer, start
        )
        if bits or argsz < _UNMAP_ARGSZ or flags:
            return None
        removed = self._dma.unmap(iova, size)
        try:
            self._observer.dma_unmapped(iova, size, removed)
        except Exception as error:
            self._observer_failed("dma_unmapped", error)
        return _pack_unmap(message_id, command, length, _REPLY, 0, argsz, flags, iova, size)
