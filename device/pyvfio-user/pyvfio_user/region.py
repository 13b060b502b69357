"""Regions: BARs served by a handler, by memory, or by both ("Region Information")."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from . import wire
from .pci import LEAST_ROM

if TYPE_CHECKING:
    from .backing import SharedMemory

MOST_ROM = 128 << 10  # QEMU reads a ROM in one access, which our limit on transfers bounds
ROM_PADDING = b"\xff"  # what an unprogrammed ROM holds
LEAST_BAR = 16  # PCI: bits 3:0 of a memory BAR are flags
MOST_BAR = 1 << 62

BAR_64BIT = 0x4
BAR_PREFETCHABLE = 0x8


class RegionHandler(Protocol):
    """What a device author writes.  Called on the protocol thread: be quick.

    Offsets and counts are in bytes and within the region, but of any size and
    alignment.  An exception is logged and answered with an error.
    """

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Take the bytes.  The client may not be waiting for an answer."""
        ...


@dataclass(frozen=True)
class IoEventfd:
    """A place whose writes a client may turn into signals of an eventfd, as KVM does.

    `size` is that of the writes, in bytes: 1, 2, 4, 8, or 0 for any.  Only
    writes of `datamatch` count, if it is given.  The eventfd is the author's
    to read and to close.  A client need not use it: the handler must know the
    writes too.
    """

    offset: int
    size: int
    eventfd: int
    datamatch: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        if self.size not in (0, 1, 2, 4, 8) or self.offset < 0:
            raise ValueError(f"an ioeventfd for {self.size} bytes at {self.offset:#x}")
        if self.datamatch is not None and not 0 <= self.datamatch < 1 << 8 * (self.size or 8):
            raise ValueError(f"datamatch {self.datamatch:#x} of {self.size} bytes")


class Bar:
    """A base address register and what is behind it.

    With `memory`, the client maps the `mmap_areas`, (offset, size) pairs that
    are the same in the BAR and in the memory; None means all of the memory.
    Accesses by message are served from memory inside these areas and by the
    handler elsewhere; without a handler, reads give zero and writes are lost.
    """

    def __init__(
        self,
        size: int,
        *,
        handler: RegionHandler | None = None,
        memory: SharedMemory | None = None,
        mmap_areas: Sequence[tuple[int, int]] | None = None,
        ioeventfds: Sequence[IoEventfd] = (),
        prefetchable: bool = False,
        is_64bit: bool = False,
    ) -> None:
        """`size` in bytes, a power of two, 16 or more.

        Raises ValueError for a size or for areas that a client would refuse.
        """
        if not LEAST_BAR <= size <= MOST_BAR or size & (size - 1):
            raise ValueError(f"BAR size {size:#x} is no power of two from {LEAST_BAR} on")
        if size >= 1 << 32 and not is_64bit:
            raise ValueError(f"a BAR of {size:#x} must be 64 bits wide")
        self.size = size
        self.handler = handler
        self.memory = memory
        self.areas = _checked_areas(size, memory, mmap_areas)
        self.is_64bit = is_64bit
        self.ioeventfds = tuple(ioeventfds)
        if any(place.offset + max(place.size, 1) > size for place in ioeventfds):
            raise ValueError("an ioeventfd lies outside the BAR")
        self.type_bits = (BAR_64BIT if is_64bit else 0) | (BAR_PREFETCHABLE if prefetchable else 0)

    def read(self, offset: int, count: int) -> bytes:
        """Serve a read by message.  Raises ValueError if the handler answers another length."""
        for start, size in self.areas:
            if offset < start + size and start < offset + count:
                return self._read_parts(offset, count)
        # As _handler_read, written out: most accesses are a register's, and each call
        # counts there.
        if self.handler is None:
            return bytes(count)
        data = self.handler.read(offset, count)
        if len(data) != count:
            raise ValueError(f"the handler answered {len(data)} bytes for {count}")
        return data

    def _read_parts(self, offset: int, count: int) -> bytes:
        parts = []
        for start, size, view in self._parts(offset, count):
            parts.append(self._handler_read(start, size) if view is None else bytes(view))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Serve a write by message."""
        for start, size in self.areas:
            if offset < start + size and start < offset + len(data):
                self._write_parts(offset, data)
                return
        if self.handler is not None:
            self.handler.write(offset, data)

    def _write_parts(self, offset: int, data: bytes) -> None:
        for start, size, view in self._parts(offset, len(data)):
            part = data[start - offset : start - offset + size]
            if view is not None:
                view[:] = part
            elif self.handler is not None:
                self.handler.write(start, part)

    def info_flags(self) -> int:
        """VFIO_REGION_INFO flags, without CAPS."""
        flags = wire.REGION_READ | wire.REGION_WRITE
        return flags | wire.REGION_MMAP if self.areas else flags

    def capabilities(self) -> bytes:
        """Encode the capability list: one sparse mmap capability, or nothing."""
        if not self.areas or self.areas == ((0, self.size),):
            return b""
        return (
            wire.CAP_HEADER.pack(wire.REGION_CAP_SPARSE_MMAP, 1, 0)
            + wire.SPARSE_MMAP.pack(len(self.areas), 0)
            + b"".join(wire.SPARSE_MMAP_AREA.pack(*area) for area in self.areas)
        )

    def io_fds(self) -> tuple[bytes, tuple[int, ...]]:
        """Encode the sub-regions with descriptors, and list these, each once."""
        descriptors = tuple(dict.fromkeys(place.eventfd for place in self.ioeventfds))
        sub_regions = []
        for place in self.ioeventfds:
            index = descriptors.index(place.eventfd)
            flags = 0 if place.datamatch is None else wire.IOEVENTFD_DATAMATCH
            sub_regions.append(
                wire.SUB_REGION.pack(
                    place.offset,
                    place.size,
                    index,
                    wire.IO_FD_TYPE_IOEVENTFD,
                    flags,
                    0,
                    place.datamatch or 0,
                )
            )
        return b"".join(sub_regions), descriptors

    def _handler_read(self, offset: int, count: int) -> bytes:
        if self.handler is None:
            return bytes(count)
        data = self.handler.read(offset, count)
        if len(data) != count:
            raise ValueError(f"the handler answered {len(data)} bytes for {count}")
        return data

    def _parts(self, offset: int, count: int) -> list[tuple[int, int, memoryview | None]]:
        """Cut an access at the edges of the areas: start, size, memory or None."""
        assert self.memory is not None
        parts: list[tuple[int, int, memoryview | None]] = []
        position, end = offset, offset + count
        for start, size in self.areas:
            if start + size <= position or start >= end:
                continue
            if position < start:
                parts.append((position, start - position, None))
                position = start
            stop = min(end, start + size)
            parts.append((position, stop - position, self.memory.view[position:stop]))
            position = stop
        if position < end:
            parts.append((position, end - position, None))
        return parts


class Rom(Bar):
    """An expansion ROM: an image, padded to a power of two, that ignores writes."""

    def __init__(self, image: bytes) -> None:
        """Take the image.  Raises ValueError if it is empty or larger than 128 KiB."""
        if not 0 < len(image) <= MOST_ROM:
            raise ValueError(f"expansion ROM image of {len(image)} bytes")
        super().__init__(max(LEAST_ROM, 1 << (len(image) - 1).bit_length()))
        self._bytes = image.ljust(self.size, ROM_PADDING)

    def read(self, offset: int, count: int) -> bytes:
        """Serve a read by message."""
        return self._bytes[offset : offset + count]

    def info_flags(self) -> int:
        """VFIO_REGION_INFO flags."""
        return wire.REGION_READ


def _checked_areas(
    size: int, memory: SharedMemory | None, areas: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    if memory is None:
        if areas is not None:
            raise ValueError("mmap areas without memory")
        return ()
    if areas is None:
        areas = [(0, memory.size)]
    previous_end = 0
    for start, length in sorted(areas):
        if start % mmap.PAGESIZE or length % mmap.PAGESIZE or length <= 0:
            raise ValueError(f"mmap area {start:#x}, {length:#x} is not made of pages")
        if start < previous_end or start + length > min(size, memory.size):
            raise ValueError(f"mmap area {start:#x}, {length:#x} overlaps or exceeds its memory")
        previous_end = start + length
    return tuple(sorted(areas))
