"""What the cases ask of an IOMMU, whichever it is; and guest memory for its tables."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient

PAGE = 0x1000
LARGE = 0x20_0000
HUGE = 0x4000_0000


class Access(enum.IntFlag):
    """What a translation allows."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3


@dataclass(frozen=True)
class IommuFault:
    """One entry of an IOMMU's own log.

    `address` as the IOMMU reports it: some know the page only.  `write` is
    None where the IOMMU does not say.  `reason` is the IOMMU's code.
    """

    requester: int
    address: int
    write: bool | None
    reason: int


class Iommu(Protocol):
    """One translated function and its IOMMU, with the tables in guest memory.

    Addresses and sizes in bytes, page multiples.  `leaf` is the size of one
    translation in the tables, where the IOMMU has such tables.
    """

    aperture_end: int
    """The last logical address that can be translated."""

    def enable(self) -> None:
        """Translate: the function reaches what is mapped and nothing else."""

    def disable(self) -> None:
        """Let logical addresses be guest-physical ones again."""

    def map(
        self, logical: int, physical: int, size: int, access: Access = Access.BOTH, leaf: int = PAGE
    ) -> None:
        """Make a range translate, and tell the hardware."""

    def unmap(self, logical: int, size: int, leaf: int = PAGE) -> None:
        """Take a range away, and tell the hardware; parts that are not mapped do no harm."""

    def join(self, requester: int) -> None:
        """Let another function of bus 0 use our translations too."""

    def faults(self) -> list[IommuFault]:
        """What the IOMMU logged since the last question."""


class Frames:
    """Pages of guest RAM for tables and queues: zeroed, never given back."""

    def __init__(self, qtest: QtestClient, start: int = 16 << 20, end: int = 32 << 20) -> None:
        """Guest-physical bounds."""
        self._qtest = qtest
        self._next = start
        self._end = end

    def take(self, count: int = 1) -> int:
        """The address of `count` pages in a row."""
        address = self._next
        self._next += count * PAGE
        if self._next > self._end:
            raise VmError("no frames left for the IOMMU's tables.")
        self._qtest.fill(address, count * PAGE, 0)
        return address
