"""What a process holds: descriptors, threads, memory maps, resident memory."""

from __future__ import annotations

import os
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Footprint:
    """One look at a process. `resident` in KiB."""

    descriptors: int
    threads: int
    maps: int
    resident: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Look now."""
        process = Path(f"/proc/{pid}")
        status = (process / "status").read_text()
        numbers = dict(re.findall(r"(?m)^(Threads|VmRSS):\s+(\d+)", status))
        return cls(
            len(os.listdir(process / "fd")),
            int(numbers["Threads"]),
            len((process / "maps").read_text().splitlines()),
            int(numbers["VmRSS"]),
        )

    def __str__(self) -> str:
        descriptors, threads, maps, resident = astuple(self)
        return f"{descriptors} descriptors, {threads} threads, {maps} maps, {resident} KiB"
