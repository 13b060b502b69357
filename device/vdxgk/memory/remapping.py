"""The commit check: is every page of a list mapped to the page that was chosen?

The guest programs the IOMMU; the hypervisor walks the guest's tables and
announces each mapping.  A list is live only if what was announced is what the
backend asked for, page by page: present, readable and writable, and leading
to the place in guest RAM that belongs to the guest-physical address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vdxgk.memory.guest_ram import BackingFile, GuestRam
from vdxgk.memory.objects import WantedMapping
from vdxgk.memory.pages import PAGE_SIZE, align_down

READ_WRITE = 3


class Announced(Protocol):
    """One mapping that the hypervisor announced, clipped to the range asked for."""

    @property
    def iova(self) -> int:
        """First logical address."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def access(self) -> int:
        """1 read, 2 write."""

    @property
    def backing(self) -> BackingFile | None:
        """The file, or None if no descriptor came."""

    @property
    def offset(self) -> int:
        """Of ``iova``, in the file."""


class Translations(Protocol):
    """What the hypervisor has announced so far: the DMA table."""

    def pieces(self, iova: int, size: int) -> Sequence[Announced]:
        """The mappings within the range, clipped to it, ascending; gaps are absent."""


@dataclass(frozen=True, slots=True)
class RemapFailure:
    """The first page that is not as it must be.

    ``logical`` is a page address; ``expected`` and ``found`` are guest-
    physical addresses, None where there is none; ``access`` as announced.
    """

    logical: int
    expected: int | None
    found: int | None
    access: int
    reason: str
    function: int = 0
    """Which of the linked functions sees it."""


def check_mapped(
    wanted: Iterable[WantedMapping], table: Translations, ram: GuestRam, *, io_space: bool = False
) -> RemapFailure | None:
    """None if every page of ``wanted`` is mapped as asked, else the first failure.

    The hypervisor announces a BAR without a descriptor.  So of ``io_space``
    presence, access, and that it is no RAM, is what can be vouched for.
    """
    wrong_byte = _first_byte_of_ram if io_space else _first_wrong_byte
    for mapping in wanted:
        failure = _check_one(mapping, table, ram, wrong_byte)
        if failure is not None:
            return failure
    return None


def check_unmapped(
    wanted: Iterable[WantedMapping], table: Translations, ram: GuestRam
) -> RemapFailure | None:
    """None if no page of ``wanted`` is mapped any more, else the first that is."""
    for mapping in wanted:
        for piece in table.pieces(mapping.logical, mapping.size):
            return RemapFailure(
                logical=align_down(piece.iova, PAGE_SIZE),
                expected=None,
                found=_guest_physical(piece, piece.iova, ram),
                access=int(piece.access),
                reason="is still mapped after the list was freed",
            )
    return None


def _check_one(
    mapping: WantedMapping,
    table: Translations,
    ram: GuestRam,
    wrong_byte: Callable[[Announced, int, GuestRam], int | None],
) -> RemapFailure | None:
    position = mapping.logical
    for piece in _joined(table.pieces(mapping.logical, mapping.size)):
        if piece.iova > position:
            break
        expected = mapping.physical + piece.iova - mapping.logical
        if int(piece.access) & READ_WRITE != READ_WRITE:
            found = _guest_physical(piece, piece.iova, ram)
            return RemapFailure(
                piece.iova, expected, found, int(piece.access), "is not mapped for read and write"
            )
        wrong = wrong_byte(piece, expected, ram)
        if wrong is not None:
            page = align_down(wrong, PAGE_SIZE)
            return RemapFailure(
                logical=page,
                expected=mapping.physical + page - mapping.logical,
                found=_guest_physical(piece, page, ram),
                access=int(piece.access),
                reason="is mapped to another page",
            )
        position = piece.iova + piece.size
    if position < mapping.logical + mapping.size:
        page = align_down(position, PAGE_SIZE)
        return RemapFailure(
            page, mapping.physical + page - mapping.logical, None, 0, "is not mapped"
        )
    return None


@dataclass(slots=True)
class _Run:
    """Announced in one mapping or several."""

    iova: int
    size: int
    access: int
    backing: BackingFile | None
    offset: int


def _joined(pieces: Iterable[Announced]) -> Iterator[_Run]:
    """Neighbours as one, where they are neighbours in the file too: a list has thousands."""
    run: _Run | None = None
    for piece in pieces:
        if (
            run is not None
            and piece.iova == run.iova + run.size
            and piece.access == run.access
            and piece.backing is run.backing
            and (run.backing is None or piece.offset == run.offset + run.size)
        ):
            run.size += piece.size
            continue
        if run is not None:
            yield run
        run = _Run(piece.iova, piece.size, piece.access, piece.backing, piece.offset)
    if run is not None:
        yield run


def _first_wrong_byte(piece: Announced, expected: int, ram: GuestRam) -> int | None:
    """The first logical address of ``piece`` that leads elsewhere than to ``expected``."""
    if not ram.known:
        # No descriptor ever came, or the guest's IOMMU was on before the client was
        # (hot plug): presence and access are all that this check can vouch for.
        return None
    if piece.backing is None:
        return piece.iova
    position = 0
    while position < piece.size:
        place = ram.locate(expected + position)
        if (
            place is None
            or place.backing.identity != piece.backing.identity
            or place.offset != piece.offset + position
        ):
            return piece.iova + position
        position += place.contiguous
    return None


def _first_byte_of_ram(piece: Announced, expected: int, ram: GuestRam) -> int | None:
    """The first logical address of ``piece`` that leads to RAM: only RAM has a descriptor."""
    return None if piece.backing is None else piece.iova


def _guest_physical(piece: Announced, logical: int, ram: GuestRam) -> int | None:
    if piece.backing is None:
        return None
    return ram.gpa_of(piece.backing.identity, piece.offset + logical - piece.iova)
