"""The log's format: records of one size, so that a reader needs no parser.

A header, then records in the order of their times.  All numbers are
little-endian; an unused field is 0.
"""

from __future__ import annotations

import enum
import struct

MAGIC = b"vdxgk audit 1\n\0\0"

HEADER = struct.Struct("<16sQQQ")
"""Magic; the time of day and CLOCK_MONOTONIC at the start, in nanoseconds; the size limit."""

RECORD = struct.Struct("<QBBHIQQQ")
"""Time (CLOCK_MONOTONIC, nanoseconds), kind, access, file, 0, first, last, offset.

`first` and `last` are DMA addresses, both within the range.  `file` is a
number for each file that the client sent a descriptor of, 0 without one;
`offset` is where in it `first` lies.
"""

MARK_BYTES = 24
"""Of a mark's text, in UTF-8: it takes the place of first, last and offset."""


class Kind(enum.IntEnum):
    """What a record is about."""

    CONNECTED = 1
    DESCRIBED = 2
    """What was mapped so far is guest memory at its own addresses."""
    RESET = 3
    DISCONNECTED = 4
    """Nothing is mapped any more."""
    MAPPED = 5
    UNMAPPED = 6
    MARK = 7
    """Somebody wants this moment to be found again."""
    END = 8
    """Nothing follows.  `access` says why (Ending), `first` an errno."""


class Ending(enum.IntEnum):
    """Why a log ends."""

    STOPPED = 0
    """The server was stopped: the log is complete."""
    LIMIT = 1
    """The log has reached its size limit."""
    BEHIND = 2
    """The disk was slower than the guest."""
    ERROR = 3
    """The file could not be written any more."""


assert HEADER.size == RECORD.size == 40
assert len(MAGIC) == 16
