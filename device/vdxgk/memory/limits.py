"""What a server gives at most: to its guest, to who looks on, to its log.

Each limit is an option of `vdxgk serve` and a row of docs/device.md's table.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from vdxgk.memory.ntstatus import NtStatus, Refused


@dataclass(frozen=True, slots=True)
class Limit:
    """``option`` of `vdxgk serve` sets a limit from ``lowest`` to ``highest``.

    ``what`` is limited; beyond it the guest gets ``status``, None where no guest asks.
    ``in_bytes``: a size, otherwise a number.
    """

    option: str
    what: str
    lowest: int
    highest: int
    status: NtStatus | None
    in_bytes: bool


def _limit(
    option: str,
    default: int,
    highest: int,
    what: str,
    status: NtStatus | None = NtStatus.INSUFFICIENT_RESOURCES,
    *,
    lowest: int = 1,
    in_bytes: bool = False,
) -> Any:  # noqa: ANN401 - as dataclasses.field
    limit = Limit(option, what, lowest, highest, status, in_bytes)
    return dataclasses.field(default=default, metadata={"limit": limit})


def _bytes(
    option: str,
    default: int,
    what: str,
    status: NtStatus = NtStatus.INSUFFICIENT_RESOURCES,
) -> Any:  # noqa: ANN401
    return _limit(option, default, 1 << 40, what, status, lowest=4096, in_bytes=True)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Raises ValueError for a limit out of its range."""

    objects: int = _limit("--max-objects", 4096, 1 << 20, "memory objects, and open ones")
    lists: int = _limit("--max-lists", 16384, 1 << 20, "address descriptor lists")
    # Room for the largest MDL with no two pages in a row, and for one list of it.
    pieces: int = _limit(
        "--max-pieces", 1 << 21, 1 << 26, "runs of memory in all objects and lists together"
    )
    cpu_mappings: int = _limit("--max-views", 4096, 1 << 20, "views that MapPhysicalMemory made")
    donated_bytes: int = _bytes("--max-donated", 16 << 30, "donated guest memory")
    donated_blocks: int = _limit(
        "--max-donated-blocks", 1 << 18, 1 << 24, "blocks in which it was donated"
    )
    # What the guest has of RAM bounds them too.
    committed_bytes: int = _bytes(
        "--max-committed", 16 << 30, "sections together, backed or not", NtStatus.COMMITMENT_LIMIT
    )
    unfinished_lists: int = _limit(
        "--max-unfinished-lists", 256, 4096, "lists allocated and not committed yet"
    )
    pending: int = _limit(
        "--max-pending",
        256,
        256,
        "requests, or engine commands, that wait when the device looks",
        NtStatus.DEVICE_BUSY,
    )
    log_lines: int = _limit(
        "--max-log-lines", 20, 100_000, "log lines of one kind in a second", None
    )
    viewers: int = _limit("--max-viewers", 8, 256, "VNC viewers of one adapter", None)
    reserve_bytes: int = 16 << 20
    """Idle donated memory that the backend keeps for the next object; no limit, so no option."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if not limit.lowest <= value <= limit.highest:
                raise ValueError(
                    f"{limit.option} {value} is not in {limit.lowest} to {limit.highest}"
                )


LIMITS: dict[str, Limit] = {
    each.name: each.metadata["limit"] for each in dataclasses.fields(Quotas) if each.metadata
}
"""By field of Quotas."""


class Pieces:
    """How many runs all objects have, and mappings all lists: each costs the host memory."""

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit

    def check_room(self, count: int) -> None:
        """Raise Refused with STATUS_INSUFFICIENT_RESOURCES unless there is room for more."""
        if self.held + count > self._limit:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"{count} pieces wanted, {self.held} of {self._limit} are in use",
            )
