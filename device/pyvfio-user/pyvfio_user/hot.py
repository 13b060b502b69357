"""The requests that come by the thousand, answered without a `Message` for each.

Small accesses of BARs, DMA_MAP and DMA_UNMAP, whole and well-formed.  Whatever
is not exactly that is left to the session, so that what is wrong with a
message is said in one place, and a test compares the two ways.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import wire
from .runs import ACCESSES, LONGEST, Notify, Runs
from .wire import Command

if TYPE_CHECKING:
    from .bulk import Piece
    from .device import Device

Outgoing = tuple[bytes, tuple[int, ...]]  # messages, and the descriptors that go with them

Read = tuple[Callable[[int, int], bytes], int, int, bytes]
"""What answers a read, the offset, the count, and the reply between its number and the data."""

MOST_READS = 1024
"""Of which it is remembered what they mean: a driver reads a few registers all the time."""
SMALL = 8  # bytes: the largest access of a register


def _with_header(fields: struct.Struct) -> struct.Struct:
    return struct.Struct(wire.HEADER.format + fields.format[1:])


# Names of their own, and plain numbers: each look-up less counts here.
_KIND = struct.Struct("=xxHI")  # of a header: command, size
_pack_header, _HEADER_SIZE = wire.HEADER.pack, wire.HEADER_SIZE
_ACCESS = _with_header(wire.REGION_ACCESS)
_unpack_access, _pack_access, _ACCESS_SIZE = _ACCESS.unpack_from, _ACCESS.pack, _ACCESS.size
_unpack_read = struct.Struct(f"=2s{_ACCESS_SIZE - 2}s").unpack_from
_MAP = _with_header(wire.DMA_MAP)
_unpack_map, _MAP_SIZE, _MAP_ARGSZ = _MAP.unpack_from, _MAP.size, wire.DMA_MAP.size
_UNMAP = _with_header(wire.DMA_UNMAP)
_unpack_unmap, _pack_unmap, _UNMAP_SIZE = _UNMAP.unpack_from, _UNMAP.pack, _UNMAP.size
_UNMAPS, _UNMAP_ARGSZ = int(Command.DMA_UNMAP), wire.DMA_UNMAP.size
_MAP_FLAGS = wire.DMA_MAP_FLAGS
_REPLY, _NO_REPLY = wire.TYPE_REPLY, wire.FLAG_NO_REPLY


class HotPath:
    """Belongs to a session that has been negotiated."""

    def __init__(
        self,
        device: Device,
        failed: Callable[[int, Exception], int],
        notify: Notify,
    ) -> None:
        """`failed(command, error)` tells of an error and says which errno the client gets."""
        self._regions = device.regions
        self._dma = device.dma
        self._observer = device.observer
        self._runs = Runs(device, notify)
        self._failed = failed
        self._notify = notify
        self._reads: dict[bytes, Read] = {}
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
        in_runs = True
        kind, common, answered = _KIND.unpack_from, self._common, outgoing.append
        while end - start >= _HEADER_SIZE:
            command, size = kind(buffer, start)
            stop = start + size
            handler = common.get(command)
            if handler is None or stop > end:
                break
            if command == _UNMAPS and end - stop >= _UNMAP_SIZE and in_runs and not descriptors:
                replies = self._runs.unmap(buffer[start:end])
                in_runs = len(replies) == LONGEST * _UNMAP_SIZE  # else what follows is not plain
                if replies:
                    answered((replies, ()))
                    start += len(replies)
                    continue
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

    def answer_pieces(
        self, buffer: memoryview, pieces: Sequence[Piece], outgoing: list[Outgoing]
    ) -> int:
        """Answer what came in pieces from the first on; return how many are answered whole."""
        count, replies = self._runs.map(buffer, pieces)
        if count:
            outgoing.append((replies, ()))
        return count

    # ---- one method for each command: the reply, if there is one; None for what is not common ----

    def _read(self, buffer: memoryview, start: int, stop: int, fds: list[int]) -> bytes | None:
        if stop - start != _ACCESS_SIZE or fds:
            return None
        number, rest = _unpack_read(buffer, start)
        known = self._reads.get(rest)
        if known is None:
            known = self._learn(rest)
            if known is None:
                return None
        read, offset, count, reply = known
        answer: bytes = number + reply + read(offset, count)
        return answer

    def _learn(self, rest: bytes) -> Read | None:
        """Work out what a read means that begins with any number and goes on like this."""
        _, command, _, flags, _, offset, index, count = _unpack_access(bytes(2) + rest)
        bar = self._regions.get(index)
        if flags or bar is None or count > SMALL or offset + count > bar.size:
            return None
        if len(self._reads) >= MOST_READS:
            self._reads.clear()
        reply = _pack_access(0, command, _ACCESS_SIZE + count, _REPLY, 0, offset, index, count)
        known = self._reads[rest] = (bar.read, offset, count, reply[2:])
        return known

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
        self._notify(self._observer.dma_mapped, mapping)
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
        self._notify(self._observer.dma_unmapped, iova, size, removed)
        return _pack_unmap(message_id, command, length, _REPLY, 0, argsz, flags, iova, size)
