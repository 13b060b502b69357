"""Reads a log of `vdxgk serve --audit` (the format: vdxgk.audit.records)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vdxgk.audit.records import HEADER, MAGIC, MARK_BYTES, RECORD, Ending, Kind
from vdxgk_lab.errors import LabError

Records = npt.NDArray[Any]

_RECORD = np.dtype(
    [
        ("time", "<u8"),
        ("kind", "u1"),
        ("access", "u1"),
        ("file", "<u2"),
        ("zero", "<u4"),
        ("first", "<u8"),
        ("last", "<u8"),
        ("offset", "<u8"),
    ]
)
assert _RECORD.itemsize == RECORD.size


class AuditError(LabError):
    """The file is no log of an audit, or is damaged."""


@dataclass(frozen=True)
class AuditLog:
    """A log.

    `records` without the last one (Kind.END), which `ending` stands for: None
    if it is missing.  `time_of_day` of the start, in nanoseconds since 1970;
    `start` and `end` in nanoseconds of CLOCK_MONOTONIC.
    """

    records: Records
    ending: Ending | None
    errno: int
    limit: int
    time_of_day: int
    start: int
    end: int

    @property
    def complete(self) -> bool:
        """Whether all that happened until the server was stopped is in it."""
        return self.ending is Ending.STOPPED

    @property
    def state(self) -> str:
        """Whether it is complete, and if not, why, in words."""
        match self.ending:
            case Ending.STOPPED:
                return "complete"
            case Ending.LIMIT:
                return f"INCOMPLETE: it reached its limit of {self.limit >> 20} MiB (--audit-limit)"
            case Ending.BEHIND:
                return "INCOMPLETE: the disk was slower than the guest"
            case Ending.ERROR:
                return f"INCOMPLETE: {os.strerror(self.errno)}"
        return "INCOMPLETE: it has no end; the server still runs, or was killed"

    def seconds(self, time: int) -> float:
        """A time of a record, in seconds since the start."""
        return (int(time) - self.start) / 1e9

    def marks(self) -> list[tuple[int, str]]:
        """The times and texts of the marks."""
        found = self.records[self.records["kind"] == Kind.MARK]
        return [
            (int(record["time"]), record.tobytes()[-MARK_BYTES:].rstrip(b"\0").decode())
            for record in found
        ]


def read(path: Path) -> AuditLog:
    """Read a log.

    Raises AuditError for a file that is none or is damaged; one that merely
    ends too early has no `ending`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}.") from error
    if not data.startswith(MAGIC) or len(data) < HEADER.size:
        raise AuditError(f"{path} is no log of an audit.", "`vdxgk serve --audit FILE` makes one.")
    _, time_of_day, start, limit = HEADER.unpack_from(data)
    count = (len(data) - HEADER.size) // RECORD.size
    records = np.frombuffer(data, _RECORD, count, HEADER.size)
    _check(path, records, start)
    ending, errno = None, 0
    end = int(records["time"][-1]) if count else start
    if count and records["kind"][-1] == Kind.END:
        ending, errno = Ending(records["access"][-1]), int(records["first"][-1])
        records = records[:-1]
    return AuditLog(records, ending, errno, limit, time_of_day, start, end)


def _check(path: Path, records: Records, start: int) -> None:
    kind, access = records["kind"], records["access"]
    ranges = (kind == Kind.MAPPED) | (kind == Kind.UNMAPPED)
    highest = np.where(kind == Kind.END, max(Ending), 3)
    before = np.concatenate([[np.uint64(start)], records["time"][:-1]]).astype(np.uint64)
    wrong = {
        "is of no known kind": ~np.isin(kind, list(Kind)),
        "has a range that ends before it begins": ranges & (records["first"] > records["last"]),
        "has an access that there is not": access > highest,
        "is older than the one before it": records["time"] < before,
        "stands behind the end": np.concatenate([[False], kind[:-1] == Kind.END]),
    }
    for what, where in wrong.items():
        if len(records) and where[: len(records)].any():
            number = int(np.argmax(where))
            raise AuditError(f"{path} is damaged: record {number} of {len(records)} {what}.")
    for record in records[kind == Kind.MARK]:
        try:
            record.tobytes()[-MARK_BYTES:].decode()
        except UnicodeDecodeError as error:
            raise AuditError(f"{path} is damaged: a mark is not text.") from error
