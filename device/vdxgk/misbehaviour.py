"""A device that breaks its promises when told to.

Each kind proves that some check of the tests sees the breach.  Nothing here
runs unless the server was started with fault injection allowed, and then only
once for each time that it is armed.
"""

from __future__ import annotations

import contextlib
import enum
import threading

from isal import isal_zlib
from structlog.typing import FilteringBoundLogger

from pyvfio_user import DmaFault, DmaTable
from vdxgk.channel import layout
from vdxgk.engine import MemoryPath
from vdxgk.faults import AccessRefused
from vdxgk.memory.backend import Backend
from vdxgk.memory.objects import WantedMapping


class Misbehaviour(enum.Enum):
    """What the device can be told to do wrong, once."""

    STALE_HANDLE = "stale-handle"
    """Answer the next create with the handle of the object destroyed last."""
    CORRUPT_WRITE = "corrupt-write"
    """Flip one bit of the engine's next write."""
    STRAY_WRITE = "stray-write"
    """After the engine's next write, also change a byte of a page that no object owns."""
    EXCLUSIVE_DMA = "exclusive-dma"
    """Read memory when exclusive access has begun."""
    IGNORE_UNMAP = "ignore-unmap"
    """Carry out the next access to the list freed last as if it were still mapped."""


STARVING = frozenset(
    getattr(layout, f"OP_{name}")
    for name in (
        *("START_ADAPTER", "DONATE", "CREATE_OBJECT", "OPEN_OBJECT", "MAP_OBJECT"),
        *("ALLOCATE_ADL", "COMMIT_ADL", "QUERY_LIST", "RESERVE_SAVE_AREA", "PIN_SAVE_AREA"),
        *("BEGIN_EXCLUSIVE",),
    )
)
"""Requests that can need memory of the backend's own."""


class Saboteur:
    """Holds what is armed, and does it when its moment comes."""

    def __init__(self, backend: Backend, log: FilteringBoundLogger) -> None:
        self._backend = backend
        self._armed: set[Misbehaviour] = set()
        self._lock = threading.Lock()
        self._starve_after: int | None = None
        self._log = log

    def arm(self, kind: Misbehaviour) -> None:
        """Misbehave once."""
        with self._lock:
            self._armed.add(kind)

    def starve(self, after: int) -> None:
        """Lack memory for one request, after ``after`` others that can need it."""
        self._starve_after = after

    def starves(self, op: int) -> bool:
        """Whether there is no memory for this request."""
        after = self._starve_after
        if after is None or op not in STARVING:
            return False
        self._starve_after = after - 1 if after else None
        return not after

    def disarm(self) -> None:
        """Behave."""
        with self._lock:
            self._armed.clear()

    def take(self, kind: Misbehaviour) -> bool:
        """Whether ``kind`` is armed; it no longer is."""
        if not self._armed:
            return False
        with self._lock:
            armed = kind in self._armed
            self._armed.discard(kind)
        if armed:
            self._log.warning("misbehaving", kind=kind.value)
        return armed

    def handle(self, handle: int) -> int:
        """The handle that a create answers."""
        stale = self._backend.last_destroyed
        if stale is not None and self.take(Misbehaviour.STALE_HANDLE):
            return stale
        return handle

    def exclusive_access(self, table: DmaTable) -> None:
        """It has begun: read the first page of some list."""
        if self.take(Misbehaviour.EXCLUSIVE_DMA):
            lists = iter(self._backend.lists)
            address = next((adl.mappings[0].logical for adl in lists), 0)
            with contextlib.suppress(DmaFault):
                table.read(address, 8)

    def stray_write(self) -> None:
        """Change one byte of a free donated page, around every check."""
        with self._backend.lock:
            free = next(iter(self._backend.pool.free_ranges), None)
            place = self._backend.ram.locate(free.base + 0x123) if free else None
            if place is not None:
                byte = place.backing.read(place.offset, 1)[0]
                place.backing.write(place.offset, bytes([byte ^ 0x5A]))

    def around_unmap(self, address: int, size: int) -> WantedMapping | None:
        """Where the list freed last had ``address``, if one mapping held all of it."""
        for mapping in self._backend.last_freed:
            into = address - mapping.logical
            if into >= 0 and into + size <= mapping.size:
                return WantedMapping(address, mapping.physical + into, size)
        return None


class MisbehavingPath:
    """A path to memory that misbehaves when its saboteur says so."""

    def __init__(self, path: MemoryPath, saboteur: Saboteur, backend: Backend) -> None:
        self._path = path
        self._saboteur = saboteur
        self._backend = backend

    def read(self, address: int, size: int) -> bytes:
        """See MemoryPath."""
        try:
            return self._path.read(address, size)
        except AccessRefused:
            stale = self._stale(address, size)
            if stale is None:
                raise
            place = self._backend.ram.locate(stale.physical)
            assert place is not None
            return place.backing.read(place.offset, size)

    def read_into(self, address: int, target: memoryview) -> None:
        """See MemoryPath."""
        target[:] = self.read(address, len(target))

    def write(self, address: int, data: bytes) -> None:
        """See MemoryPath."""
        if data and self._saboteur.take(Misbehaviour.CORRUPT_WRITE):
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
        try:
            self._path.write(address, data)
        except AccessRefused:
            stale = self._stale(address, len(data))
            if stale is None:
                raise
            place = self._backend.ram.locate(stale.physical)
            assert place is not None
            place.backing.write(place.offset, data)
        if self._saboteur.take(Misbehaviour.STRAY_WRITE):
            self._saboteur.stray_write()

    def crc32(self, address: int, size: int, crc: int) -> int:
        """See MemoryPath."""
        try:
            return self._path.crc32(address, size, crc)
        except AccessRefused:
            return isal_zlib.crc32(self.read(address, size), crc)

    def copy(self, source: int, destination: int, size: int) -> None:
        """See MemoryPath."""
        self.write(destination, self.read(source, size))

    def _stale(self, address: int, size: int) -> WantedMapping | None:
        stale = self._saboteur.around_unmap(address, size)
        if stale is None or not self._saboteur.take(Misbehaviour.IGNORE_UNMAP):
            return None
        return stale
