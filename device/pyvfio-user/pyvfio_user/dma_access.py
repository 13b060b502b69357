"""An access to client memory: checked as a whole, in place, over when it is over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .backing import Backing, Data
from .errors import Access, DmaFault, FaultReason, LocalProtocolError

if TYPE_CHECKING:
    from types import TracebackType

    from .dma import DmaTable


class Span:
    """A run of bytes, contiguous in DMA addresses and in one file."""

    __slots__ = ("_access", "_offset", "backing", "iova", "size")

    def __init__(
        self, access: DmaAccess, iova: int, size: int, backing: Backing, offset: int
    ) -> None:
        """Belong to an access, and die with it."""
        self._access = access
        self.backing = backing
        self._offset = offset
        self.iova = iova
        self.size = size

    def read(self, offset: int = 0, size: int | None = None) -> memoryview | bytes:
        """Return bytes of the span: in place and read-only where the file is mapped, else a copy.

        A view in place is released when the access ends.  Do not let arrays
        made from it live longer: they would see memory that was taken away.

        Raises DmaFault(INACCESSIBLE) if the client's file has become too short.
        """
        size = self._part(offset, size)
        backing = self.backing
        if backing.is_mapped:
            view = backing.view(self._offset + offset, size).toreadonly()
            self._access.lend(view)
            return view
        try:
            return backing.read(self._offset + offset, size)
        except OSError as error:
            raise self._fault(offset, Access.READ) from error

    def write(self, data: Data, offset: int = 0) -> None:
        """Copy bytes into the span, from `offset` on.

        Raises LocalProtocolError for an access that was not for writing,
        DmaFault(INACCESSIBLE) for a file that cannot be written.
        """
        self._part(offset, len(data))
        if not self._access.may_write:
            raise LocalProtocolError("this access is not for writing")
        try:
            self.backing.write(self._offset + offset, data)
        except OSError as error:
            raise self._fault(offset, Access.WRITE) from error
        finally:  # part of it may have been written
            self._access.wrote(self.iova + offset, len(data))

    def _part(self, offset: int, size: int | None) -> int:
        if not self._access.is_live:
            raise LocalProtocolError("the access that this span belongs to has ended")
        if size is None:
            size = self.size - offset
        if offset < 0 or size < 0 or offset + size > self.size:
            raise LocalProtocolError(f"{size} bytes at {offset} in a span of {self.size}")
        return size

    def _fault(self, offset: int, wanted: Access) -> DmaFault:
        return DmaFault(self.iova + offset, wanted, FaultReason.INACCESSIBLE)


class DmaAccess:
    """A checked access to a range, from `with` to its end."""

    def __init__(self, table: DmaTable, iova: int, size: int, wanted: Access) -> None:
        """Name the range; nothing happens before `with`."""
        self.wanted = wanted
        self.may_write = bool(wanted & Access.WRITE)  # once, not for each of thousands of spans
        self.is_live = False
        self._table = table
        self._iova = iova
        self._size = size
        self._views: list[memoryview] = []

    def __enter__(self) -> list[Span]:
        """Take the table's lock and check the whole range.  Raises DmaFault."""
        self._table.lock.acquire()
        try:
            spans = self._table.check(self, self._iova, self._size, self.wanted)
        except BaseException:
            self._table.lock.release()
            raise
        self.is_live = True
        return spans

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Revoke the views that were lent, and let table changes go on."""
        self.is_live = False
        for view in self._views:
            # An array made from it may still be there.
            with contextlib.suppress(BufferError):
                view.release()
        self._views.clear()
        self._table.lock.release()

    def wrote(self, iova: int, size: int) -> None:
        """Note a write, if the client wants to know."""
        if self._table.dirty.is_on:
            self._table.dirty.wrote(iova, size)

    def lend(self, view: memoryview) -> None:
        """Remember a view, to revoke it."""
        self._views.append(view)
