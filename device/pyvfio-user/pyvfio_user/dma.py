"""The DMA table: what the client lets the device reach, and how it is reached.

Two policies.  `strict` is the specification to the letter: a map over a
mapping is refused, an unmap must match.  `tolerant` is an interval map, which
is what QEMU needs behind an emulated IOMMU: a map replaces what it overlaps,
an unmap removes whatever lies in its range, and the table always says what
the client believes.

Threads.  Device threads access memory; the protocol thread changes the table.
An access holds the table's lock from its check to its end, so a change waits
for it: the answer to DMA_UNMAP is the barrier after which nothing touches the
range.  Keep each access short; the client waits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .addresses import ADDRESS_END, SortedAddresses
from .backing import Backing, Data, is_writable
from .connection import close_descriptor, close_descriptors
from .dirty import DirtyLog
from .dma_access import DmaAccess, Translation
from .errors import Access, DmaFault, FaultReason, RemoteProtocolError
from .fairlock import FairLock
from .watch import DeviceWatcher

DmaPolicy = Literal["tolerant", "strict"]

MOST_KEPT = 1 << 16
"""Runs in all kept translations, each of which counts as a few more: some megabytes at most."""


class Mapping(NamedTuple):
    """One range.  Addresses and sizes in bytes.

    `backing` is None when the client sent no descriptor: only messages reach
    the range.  `offset` is the place of `iova` in the backing's file.
    """

    iova: int
    size: int
    access: Access
    backing: Backing | None
    offset: int

    @property
    def end(self) -> int:
        """The first address behind the range, up to 2^64."""
        return self.iova + self.size

    def clip(self, start: int, end: int) -> Mapping:
        """Return the part within [start, end), which must not be empty."""
        start, end = max(start, self.iova), min(end, self.end)
        offset = self.offset + (start - self.iova if self.backing else 0)
        return Mapping(start, end - start, self.access, self.backing, offset)

    def longer(self, size: int) -> Mapping:
        """Return the range with `size` bytes more behind it."""
        return Mapping(self.iova, self.size + size, self.access, self.backing, self.offset)


@dataclass
class DmaStatistics:
    """Counters since the table was made."""

    maps: int = 0
    unmaps: int = 0
    removed: int = 0  # mappings that unmaps touched
    replaced: int = 0  # mappings that later maps overlapped
    split: int = 0  # mappings of which an unmap or a map left two parts
    unmatched: int = 0  # unmaps of ranges with nothing mapped
    dropped: int = 0  # parts lost because a split would have exceeded the limit
    faults: int = 0  # accesses refused


class DmaTable:
    """The ranges that the client has mapped, by DMA address."""

    def __init__(self, policy: DmaPolicy = "tolerant", max_mappings: int = 262_144) -> None:
        """Start empty.  `max_mappings` bounds what a hostile client can make us keep."""
        if policy not in ("tolerant", "strict"):
            raise ValueError(f"no such policy: {policy}")
        self.policy = policy
        self.max_mappings = max_mappings
        self.statistics = DmaStatistics()
        self.lock = FairLock()
        self.dirty = DirtyLog()
        self.watcher: DeviceWatcher | None = None
        self._mappings: dict[int, Mapping] = {}  # by their first address
        self._starts = SortedAddresses()  # the same addresses, in order
        self._backings: dict[tuple[int, int], Backing] = {}
        self._latest: Backing | None = None  # of them, the one named last
        self._translations: dict[tuple[int, int, int], Translation] = {}
        self._kept = 0  # runs in them

    def __len__(self) -> int:
        """Return the number of mappings."""
        return len(self._mappings)

    # ---- changes -----------------------------------------------------------

    def map(
        self, iova: int, size: int, access: Access, descriptor: int | None = None, offset: int = 0
    ) -> Mapping:
        """Add a range (DMA_MAP).  Takes over the descriptor, even when this raises.

        Raises RemoteProtocolError: EINVAL for an empty or wrapping range, or
        for bytes that the file does not have; EEXIST, strict, for an overlap;
        ENOSPC for too many mappings.  Raises OSError if the file cannot be
        mapped.
        """
        with self.lock:
            backing = self._backing(descriptor)
            try:
                mapping = self._checked(iova, size, access, backing, offset)
                overlap = self._overlapping(iova, iova + size)
                if overlap and self.policy == "strict":
                    raise RemoteProtocolError(errno.EEXIST, f"{iova:#x} is already mapped")
                if len(self._mappings) >= self.max_mappings:
                    raise RemoteProtocolError(errno.ENOSPC, "too many mappings")
            except BaseException:
                self._drop(backing)
                raise
            statistics = self.statistics
            statistics.maps += 1
            if overlap:
                statistics.replaced += len(overlap)
                self._carve(overlap, iova, iova + size)
            self._mappings[iova] = mapping
            self._starts.add(iova)
            self._changed()
            return mapping

    def unmap(self, iova: int, size: int) -> int:
        """Remove a range (DMA_UNMAP); return how many mappings it touched.

        Raises RemoteProtocolError: EINVAL for a wrapping or (strict) empty
        range; strict, ENOENT unless it is exactly one mapping.
        """
        with self.lock:
            if iova + size > ADDRESS_END:
                raise RemoteProtocolError(errno.EINVAL, "the range wraps 2^64")
            exact = self._mappings.get(iova)
            if exact is not None and exact.size == size:
                self._forget(exact)
                self._drop(exact.backing)
                removed = 1
            elif self.policy == "strict":
                code = errno.ENOENT if size else errno.EINVAL
                raise RemoteProtocolError(code, f"no mapping is exactly {iova:#x}, {size:#x}")
            else:
                overlap = self._overlapping(iova, iova + size)
                self._carve(overlap, iova, iova + size)
                removed = len(overlap)
            self.statistics.unmaps += 1
            self.statistics.removed += removed
            self.statistics.unmatched += not removed
            if self.watcher is not None and removed:
                self.watcher.unmapped(iova, size)
            return removed

    def map_more(self, wanted: Iterable[tuple[int, int, Access, int, int]]) -> list[Mapping]:
        """Add ranges, from the first on, as far as that is plain; return their mappings.

        What `map` does with each, for less.  Plain is a range that is free, of the file
        that was named last.  Takes over the descriptors of what it returns, no others.
        """
        added: list[Mapping] = []
        taken: list[int] = []
        file, mappings = self._latest, self._mappings
        with self.lock:
            if file is None or not file.mappings:
                return added
            for iova, size, access, descriptor, offset in wanted:
                end = iova + size
                if not size or end > ADDRESS_END or offset + size > file.size:
                    break
                if self._overlapping(iova, end):
                    break
                if len(mappings) >= self.max_mappings or not file.is_opened_as(descriptor):
                    break
                taken.append(descriptor)
                mapping = tuple.__new__(Mapping, (iova, size, access, file, offset))
                mappings[iova] = mapping
                self._starts.add(iova)
                added.append(mapping)
            close_descriptors(taken)
            file.mappings += len(added)
            self.statistics.maps += len(added)
            self._changed()
        return added

    def unmap_more(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Remove ranges, from the first on, as far as each is one mapping; return how many.

        What `unmap` does with each, for less.
        """
        count = 0
        mappings, forget, watcher = self._mappings, self._starts.remove, self.watcher
        with self.lock:
            for iova, size in ranges:
                exact = mappings.get(iova)
                if exact is None or exact.size != size:
                    break
                del mappings[iova]
                forget(iova)
                self._drop(exact.backing)
                if watcher is not None:
                    watcher.unmapped(iova, size)
                count += 1
            self._changed()
            self.statistics.unmaps += count
            self.statistics.removed += count
        return count

    def unmap_all(self) -> int:
        """Remove everything, as the client asked; return how many mappings there were."""
        with self.lock:
            removed = len(self._mappings)
            self.clear()
            self.statistics.unmaps += 1
            self.statistics.removed += removed
            if self.watcher is not None and removed:
                self.watcher.unmapped(0, ADDRESS_END)
            return removed

    def clear(self) -> None:
        """Forget everything: the client has gone."""
        with self.lock:
            for mapping in self._mappings.values():
                self._drop(mapping.backing)
            self._mappings.clear()
            self._starts.clear()
            self._changed()

    # ---- questions ---------------------------------------------------------

    def find(self, iova: int) -> Mapping | None:
        """Return the mapping that holds an address."""
        with self.lock:
            overlap = self._overlapping(iova, iova + 1)
            return overlap[0] if overlap else None

    def pieces(self, iova: int, size: int) -> list[Mapping]:
        """Return what is mapped in a range: clipped to it, ascending, without the gaps."""
        end = iova + size
        with self.lock:
            found = self._overlapping(iova, end)
        if found:  # what lies between the first and the last lies within
            found[0] = found[0].clip(iova, end)
            found[-1] = found[-1].clip(iova, end)
        return found

    def mappings(self) -> list[Mapping]:
        """Return every mapping, ascending."""
        with self.lock:
            return [self._mappings[start] for start in self._starts]

    def backings(self) -> list[Backing]:
        """Return the files behind the mappings, each once."""
        with self.lock:
            return list(self._backings.values())

    # ---- accesses ----------------------------------------------------------

    def access(self, iova: int, size: int, access: Access) -> DmaAccess:
        """Return a context manager that yields the range as a sequence of spans.

        The whole range is checked before anything is touched.  Accesses nest
        within a thread, as a copy needs.

        Entering raises DmaFault, which names the first byte that fails.
        """
        return DmaAccess(self, iova, size, access)

    def read(self, iova: int, size: int) -> bytes:
        """Copy a range out.  Raises DmaFault."""
        with self.access(iova, size, Access.READ) as spans:
            return b"".join(span.read() for span in spans)

    def write(self, iova: int, data: Data) -> None:
        """Copy bytes in: all of them, or none if the range may not be written.

        Raises DmaFault.
        """
        view = memoryview(data).cast("B")
        with self.access(iova, len(view), Access.WRITE) as spans:
            for span in spans:
                start = span.iova - iova
                span.write(view[start : start + span.size])

    def translate(self, iova: int, size: int, wanted: Access) -> Translation:
        """Check a range and return where it lies.  The caller holds the lock.

        Raises DmaFault.
        """
        key = (iova, size, wanted.value)
        known = self._translations.get(key)
        if known is not None:
            return known
        if iova < 0 or size < 0 or iova + size > ADDRESS_END:
            raise self._fault(iova, wanted, FaultReason.OUT_OF_RANGE)
        found = self._walk(iova, iova + size, wanted)
        weight = len(found.runs) + 8
        if self._kept + weight > MOST_KEPT:
            self._changed()
        self._kept += weight
        self._translations[key] = found
        return found

    def _walk(self, position: int, end: int, wanted: Access) -> Translation:
        runs: list[Mapping] = []
        joined = 0  # bytes that the last run has to grow by
        behind = -1  # where in its file it ends then
        allowed: Access | None = None
        file: Backing | None = None
        files = 0  # how often the file changes from one run to the next
        for mapping in self._overlapping(position, end):
            start, length, access, backing, offset = mapping
            if start != position or length > end - position:
                if start > position:
                    break
                mapping = mapping.clip(position, end)  # noqa: PLW2901 - at the ends only
                start, length, access, backing, offset = mapping
            if access is not allowed or backing is not file:  # thousands of pages are alike
                self._permit(mapping, wanted)
                allowed = access
                if backing is not file:
                    file, behind = backing, -1
                    files += 1
            # Neighbours in DMA addresses are one run only if they are
            # neighbours in the same file too.
            if offset == behind:
                joined += length
            else:
                if joined:
                    runs[-1] = runs[-1].longer(joined)
                    joined = 0
                runs.append(mapping)
            behind = offset + length
            position += length
        if position < end:
            raise self._fault(position, wanted, FaultReason.UNMAPPED)
        if joined:
            runs[-1] = runs[-1].longer(joined)
        return Translation(runs, file if files == 1 else None)

    def _permit(self, mapping: Mapping, wanted: Access) -> None:
        if wanted & ~mapping.access:
            raise self._fault(mapping.iova, wanted, FaultReason.FORBIDDEN)
        file = mapping.backing
        if file is None or (wanted & Access.WRITE and not file.writable):
            raise self._fault(mapping.iova, wanted, FaultReason.INACCESSIBLE)

    def _changed(self) -> None:
        """Forget the translations: any of them may be of the range that changes."""
        if self._translations:
            self._translations.clear()
            self._kept = 0

    def _fault(self, address: int, wanted: Access, reason: FaultReason) -> DmaFault:
        self.statistics.faults += 1
        return DmaFault(address, wanted, reason)

    # ---- inner parts, under the lock ---------------------------------------

    def _overlapping(self, start: int, end: int) -> list[Mapping]:
        last = self._starts.last_before(end)
        if last is None or start >= end:
            return []
        mapping = self._mappings[last]
        if last + mapping.size <= start:  # and so do all before it: they are disjoint
            return []
        if last <= start:
            return [mapping]
        overlap = [self._mappings[key] for key in self._starts.between(start, end)]
        before = self._starts.last_before(start)
        if before is not None and self._mappings[before].end > start:
            overlap.insert(0, self._mappings[before])
        return overlap

    def _carve(self, overlap: list[Mapping], start: int, end: int) -> None:
        for mapping in overlap:
            self._forget(mapping)
            if mapping.iova < start:
                self._insert(mapping.clip(mapping.iova, start))
            if mapping.end > end:
                if mapping.iova < start:
                    self.statistics.split += 1
                self._insert(mapping.clip(end, mapping.end))
            self._drop(mapping.backing)

    def _insert(self, part: Mapping) -> None:
        # An unmap cannot be refused, so a client that only splits is bounded
        # by losing access, never by keeping it.
        if len(self._mappings) >= self.max_mappings:
            self.statistics.dropped += 1
            return
        if part.backing is not None:
            part.backing.mappings += 1
        self._mappings[part.iova] = part
        self._starts.add(part.iova)

    def _forget(self, mapping: Mapping) -> None:
        del self._mappings[mapping.iova]
        self._starts.remove(mapping.iova)
        self._changed()

    def _checked(
        self, iova: int, size: int, access: Access, backing: Backing | None, offset: int
    ) -> Mapping:
        if size <= 0 or iova < 0 or iova + size > ADDRESS_END:
            raise RemoteProtocolError(errno.EINVAL, f"range {iova:#x}, {size:#x}")
        if backing is None:
            return Mapping(iova, size, access, None, 0)
        if offset + size > backing.size:
            backing.refresh()
            if offset + size > backing.size:
                raise RemoteProtocolError(errno.EINVAL, "the file is shorter than the range")
        # Four times as quick as Mapping(...), and every DMA_MAP passes here.
        return tuple.__new__(Mapping, (iova, size, access, backing, offset))

    def _backing(self, descriptor: int | None) -> Backing | None:
        """The file behind a descriptor, with one more mapping."""
        if descriptor is None:
            return None
        latest = self._latest
        if latest is not None and latest.mappings and latest.is_opened_as(descriptor):
            close_descriptor(descriptor)
            latest.mappings += 1
            return latest
        try:
            status = os.fstat(descriptor)
            known = self._backings.get((status.st_dev, status.st_ino))
            fits = known is not None and (known.writable or not is_writable(descriptor))
        except BaseException:
            close_descriptor(descriptor)
            raise
        if known is not None and fits and (known.mappings or known.try_acquire()):
            close_descriptor(descriptor)
            known.mappings += 1
            self._latest = known
            return known
        # Not known, or of a file known by a descriptor that cannot write this one can.
        backing = Backing(descriptor)
        backing.acquire()
        backing.mappings = 1
        # Those that others than this table let go of last are still listed.
        self._backings = {key: file for key, file in self._backings.items() if file.is_live}
        self._backings[backing.identity] = self._latest = backing
        return backing

    def _drop(self, backing: Backing | None) -> None:
        if backing is None:
            return
        backing.mappings -= 1
        if backing.mappings or not backing.release():
            return
        if self._backings.get(backing.identity) is backing:
            del self._backings[backing.identity]
