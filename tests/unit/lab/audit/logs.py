"""Logs made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vdxgk.audit.records import HEADER, MAGIC, RECORD, Ending, Kind

START = 1_000_000_000
Row = tuple[int, ...]
"""Microseconds since the start, kind, then as in a record: access, file, first, last, offset."""


def mapped(time: int, first: int, size: int, *, file: int = 1, offset: int, access: int = 3) -> Row:
    return (time, Kind.MAPPED, access, file, first, first + size - 1, offset)


def unmapped(time: int, first: int, size: int) -> Row:
    return (time, Kind.UNMAPPED, 0, 0, first, first + size - 1, 0)


def event(time: int, kind: Kind) -> Row:
    return (time, kind, 0, 0, 0, 0, 0)


def mark(time: int, text: str) -> bytes:
    return RECORD.pack(START + time * 1000, Kind.MARK, 0, 0, 0, 0, 0, 0)[
        :-24
    ] + text.encode().ljust(24, b"\0")


def end(time: int, why: Ending = Ending.STOPPED, code: int = 0) -> Row:
    return (time, Kind.END, why, 0, code, 0, 0)


def write(path: Path, rows: Iterable[Row | bytes]) -> Path:
    """A log of these rows."""
    data = bytearray(HEADER.pack(MAGIC, 10**18, START, 64 << 20))
    for row in rows:
        if isinstance(row, bytes):
            data += row
            continue
        time, kind, access, file, first, last, offset = row
        fields = (START + time * 1000, kind, access, file, 0, first, last, offset)
        data += RECORD.pack(*fields)
    path.write_bytes(data)
    return path
