"""DMA_MAPs and DMA_UNMAPs in a row: of a guest that boots, resets, or moves its memory.

The table is held for all of them, and each step is taken for all of them where Python
has one call for it.  Only what is plain goes this way, and as far as it is plain: the
next message that is not is left to the usual way, which says what is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import wire
from .errors import Access
from .wire import Command

if TYPE_CHECKING:
    from .bulk import Piece
    from .device import Device

LONGEST = 64
"""Messages of a run: as long as they take, the device's own accesses wait."""

Notify = Callable[..., None]
"""Calls an observer with arguments; its mistakes change no answer."""

ACCESSES = tuple(Access(flags) for flags in range(wire.DMA_MAP_FLAGS + 1))


class _Kind:
    """One command's requests, of a number, the rest of the header, and the fields."""

    def __init__(self, command: Command, fields: struct.Struct) -> None:
        layout = struct.Struct("=2s14s" + fields.format[1:])
        self.size, self.unpack, self.iterate = layout.size, layout.unpack_from, layout.iter_unpack
        self.argsz = fields.size
        self.header = wire.HEADER.pack(0, command, layout.size, 0, 0)[2:]


_MAP = _Kind(Command.DMA_MAP, wire.DMA_MAP)
_UNMAP = _Kind(Command.DMA_UNMAP, wire.DMA_UNMAP)
_MAP_REPLY = wire.reply(0, Command.DMA_MAP, b"")[2:]
_IS_REPLY = bytes([wire.TYPE_REPLY])
_FLAGS = wire.HEADER.pack(0, 0, 0, wire.TYPE_REPLY, 0).index(_IS_REPLY)  # where that is


class Runs:
    """Belongs to a session."""

    def __init__(self, device: Device, notify: Notify) -> None:
        """Tell the device's observer by `notify`."""
        self._dma = device.dma
        self._observer = device.observer
        self._notify = notify

    def map(self, buffer: memoryview, pieces: Sequence[Piece]) -> tuple[int, bytes]:
        """Carry out the pieces' DMA_MAPs from the first on; return how many, and the replies."""
        replies = []

        def plain() -> Iterator[tuple[int, int, Access, int, int]]:
            unpack, whole, header, argsz = _MAP.unpack, _MAP.size, _MAP.header, _MAP.argsz
            for start, end, descriptors, short in pieces:
                if end - start != whole or len(descriptors) != 1 or short:
                    return
                number, rest, fixed, flags, offset, iova, size = unpack(buffer, start)
                if rest != header or fixed != argsz or flags > wire.DMA_MAP_FLAGS:
                    return
                replies.append(number + _MAP_REPLY)
                yield iova, size, ACCESSES[flags], descriptors[0], offset

        mappings = self._dma.map_more(plain())
        for mapping in mappings:
            self._notify(self._observer.dma_mapped, mapping)
        return len(mappings), b"".join(replies[: len(mappings)])

    def unmap(self, requests: memoryview) -> bytes:
        """Carry out DMA_UNMAPs from the first on; the replies are as long as what is done."""
        whole = min(len(requests) // _UNMAP.size, LONGEST) * _UNMAP.size
        header, least = _UNMAP.header, _UNMAP.argsz
        ranges = []
        for _, rest, argsz, flags, iova, size in _UNMAP.iterate(requests[:whole]):
            if rest != header or argsz < least or flags:
                break
            ranges.append((iova, size))
        count = self._dma.unmap_more(ranges)
        for iova, size in ranges[:count]:
            self._notify(self._observer.dma_unmapped, iova, size, 1)
        # A reply repeats its request, but for the flag that it is one.
        replies = bytearray(requests[: count * _UNMAP.size])
        replies[_FLAGS :: _UNMAP.size] = _IS_REPLY * count
        return bytes(replies)
