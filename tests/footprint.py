"""What a process holds: descriptors, threads, memory maps, memory."""

from __future__ import annotations

import os
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from tests.waiting import wait_for

MAPS_SLACK = 8
"""Python's allocator maps private memory as it likes."""
RESIDENT_SLACK = 4 << 10
"""KiB: the allocator keeps some of what was freed, not more each time."""


@dataclass(frozen=True)
class Footprint:
    """One look at a process.

    `shared` are the maps of files that others may write: guest memory and our own.
    `resident` is the memory that no file backs, in KiB; a guest's pages are not in it.
    """

    descriptors: int
    threads: int
    maps: int
    shared: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Look once descriptors and threads stay.

        Control connections and viewers end on threads of their own, a moment after the answer.
        """
        process = Path(f"/proc/{pid}")
        looks: list[tuple[int, int]] = []

        def is_steady() -> bool:
            looks.append((len(os.listdir(process / "fd")), len(os.listdir(process / "task"))))
            return len(looks) >= 10 and len(set(looks[-10:])) == 1

        wait_for(is_steady, "descriptors and threads are steady")
        maps = (process / "maps").read_text().splitlines()
        shared = sum(line.split()[1].endswith("s") for line in maps)
        return cls(*looks[-1], len(maps), shared, resident(pid))

    def excess(self, before: Footprint) -> list[str]:
        """What there is more of than before."""
        slack = {"maps": MAPS_SLACK, "resident": RESIDENT_SLACK}
        return [
            name
            for name in self.__dataclass_fields__
            if getattr(self, name) > getattr(before, name) + slack.get(name, 0)
        ]

    def __str__(self) -> str:
        descriptors, threads, maps, shared, anonymous = astuple(self)
        return (
            f"{descriptors} descriptors, {threads} threads, {maps} maps, {shared} shared, "
            f"{anonymous} KiB"
        )


def resident(pid: int) -> int:
    """KiB of memory that no file backs."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"(?m)^RssAnon:\s+(\d+) kB$", status)
    assert found
    return int(found[1])
