"""The objects that a run makes: each type, from one page to 64 MiB, within bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4 * KIB
LARGE_PAGE = 2 * MIB

PREFER_CONTIGUOUS = 0x10
REQUIRE_CONTIGUOUS_CHUNKS = 0x20

MAPPINGS_FOR_64_MIB = 40
"""A 64 MiB object is 32 large leaves; a few more are not worth a word."""


@dataclass(frozen=True, slots=True)
class ObjectCase:
    """One object. Sizes and addresses in bytes; bounds are inclusive.

    `max_mappings`: how many DMA_MAP messages its list may cost QEMU.
    `late_open`: created without an adapter, opened afterwards.
    """

    name: str
    type: Literal["contiguous", "mdl"]
    size: int
    low: int | None = None
    high: int | None = None
    boundary: int | None = None
    skip: int | None = None
    flags: int = 0
    cache: Literal["cached", "write-combined", "non-cached"] = "cached"
    late_open: bool = False
    max_mappings: int | None = None

    @property
    def capacity(self) -> int:
        """Size in whole pages."""
        return -(-self.size // PAGE) * PAGE

    @property
    def scattered(self) -> bool:
        """Whether its pages are to lie apart."""
        chunked = self.flags & (PREFER_CONTIGUOUS | REQUIRE_CONTIGUOUS_CHUNKS)
        return self.type == "mdl" and not chunked and self.size >= 8 * PAGE


OBJECTS = (
    ObjectCase("CONTIGUOUS", "contiguous", PAGE),
    ObjectCase("CONTIGUOUS", "contiguous", 64 * KIB, cache="write-combined"),
    ObjectCase("CONTIGUOUS", "contiguous", 2 * MIB, max_mappings=1),
    ObjectCase("CONTIGUOUS", "contiguous", 64 * MIB, max_mappings=MAPPINGS_FOR_64_MIB),
    ObjectCase("CONTIGUOUS below 4 GiB", "contiguous", MIB, high=0xFFFFFFFF),
    ObjectCase("CONTIGUOUS boundary 64K", "contiguous", 48 * KIB, boundary=64 * KIB),
    ObjectCase("CONTIGUOUS odd size", "contiguous", 1_024_001),
    ObjectCase("MDL", "mdl", PAGE),
    ObjectCase("MDL scattered", "mdl", MIB),
    ObjectCase("MDL scattered, late open", "mdl", 4 * MIB, late_open=True),
    ObjectCase("MDL above 4 GiB", "mdl", 256 * KIB, low=1 << 32),
    ObjectCase("MDL chunks of 64K", "mdl", MIB, skip=64 * KIB, flags=REQUIRE_CONTIGUOUS_CHUNKS),
    ObjectCase("MDL odd size", "mdl", 1_024_001),
    ObjectCase(
        "MDL large pages",
        "mdl",
        64 * MIB,
        flags=PREFER_CONTIGUOUS,
        max_mappings=MAPPINGS_FOR_64_MIB,
    ),
)
