"""An access to client memory: checked as a whole, in place, over when it is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from .backing import Backing, Data
from .errors import Access, DmaFault, FaultReason, LocalProtocolError

if TYPE_CHECKING:
    from types import TracebackType

    from .dma import DmaTable, Mapping


class Translation:
    """Where a range lies, as the table has it now: like an entry of an IOTLB.

    `runs` are ascending and without gaps; each is contiguous in DMA addresses
    and in its file, and as long as it can be.  `backing` is the file if it is
    the same for all.  `note` is for the device: what it worked out from the
    runs, such as an array of page numbers (never a view of the memory).  A
    translation is kept, with its note, until the table changes.
    """

    __slots__ = ("backing", "note", "runs")

    def __init__(self, runs: list[Mapping], backing: Backing | None) -> None:
        """Note nothing yet."""
        self.runs = runs
        self.backing = backing
        self.note: object = None


class Span:
    """A run of bytes, contiguous in DMA addresses and in one file."""

    __slots__ = ("_access", "_offset", "backing", "iova", "size")

    def __init__(self, access: DmaAccess, run: Mapping) -> None:
        """Belong to an access, and die with it."""
        self._access = access
        self.iova, self.size, _, backing, self._offset = run
        assert backing is not None  # or the access would have been refused
        self.backing = backing

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


class DmaAccess(Sequence[Span]):
    """A checked access to a range, from `with` to its end: a sequence of spans.

    For those who move thousands of pages at once there are the raw runs too.
    """

    def __init__(self, table: DmaTable, iova: int, size: int, wanted: Access) -> None:
        """Name the range; nothing happens before `with`."""
        self.wanted = wanted
        self.may_write = bool(wanted.value & Access.WRITE.value)
        self.is_live = False
        self.iova = iova
        self.size = size
        self._table = table
        self._views: list[memoryview] = []

    def __enter__(self) -> DmaAccess:
        """Take the table's lock and check the whole range.  Raises DmaFault."""
        table = self._table
        table.lock.acquire()
        try:
            self.translation = table.translate(self.iova, self.size, self.wanted)
            if table.watcher is not None:
                table.watcher.accessed(self.iova, self.size, self.wanted)
        except BaseException as error:
            if table.watcher is not None and isinstance(error, DmaFault):
                table.watcher.refused(self.iova, self.size, error)
            table.lock.release()
            raise
        self.is_live = True
        return self

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

    def __len__(self) -> int:
        """Return the number of spans."""
        return len(self.translation.runs)

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> list[Span]: ...

    def __getitem__(self, index: int | slice) -> Span | list[Span]:
        """Return a span, or some."""
        if isinstance(index, slice):
            return [Span(self, run) for run in self.translation.runs[index]]
        return Span(self, self.translation.runs[index])

    def __iter__(self) -> Iterator[Span]:
        """Go through the spans, ascending."""
        return (Span(self, run) for run in self.translation.runs)

    def file(self, writable: bool = False) -> memoryview | None:
        """Return the whole file behind the runs, in place; None if they are of several files,
        or it is not mapped.

        What lies outside the runs is not the device's to touch; the caller
        keeps to them, and calls `wrote` for what it writes.  Revoked when the
        access ends, like the views of spans.

        Raises LocalProtocolError if the access has ended or is not for writing.
        """
        if not self.is_live:
            raise LocalProtocolError("the access has ended")
        if writable and not self.may_write:
            raise LocalProtocolError("this access is not for writing")
        backing = self.translation.backing
        if backing is None or not backing.is_mapped:
            return None
        view = backing.view(0, backing.size)
        if not writable:
            view = view.toreadonly()
        self.lend(view)
        return view

    def wrote(self, iova: int, size: int) -> None:
        """Note a write, if the client wants to know."""
        if self._table.dirty.is_on:
            self._table.dirty.wrote(iova, size)

    def lend(self, view: memoryview) -> None:
        """Remember a view, to revoke it."""
        self._views.append(view)
