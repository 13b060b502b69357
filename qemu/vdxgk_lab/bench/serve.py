"""What a server costs before anybody uses it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdxgk_lab.device_process import DeviceProcess

IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ServeCost:
    """Seconds until QEMU could connect, resident bytes, context switches while idle."""

    ready_seconds: float
    resident_bytes: int
    idle_switches: int

    def as_json(self) -> dict[str, Any]:
        """As the other figures."""
        return {
            "ready_seconds": self.ready_seconds,
            "resident_bytes": self.resident_bytes,
            "idle_switches_per_second": self.idle_switches / IDLE_SECONDS,
        }


def measure(directory: Path) -> ServeCost:
    """Start a server, look at it, and end it."""
    began = time.monotonic()
    with DeviceProcess(directory, ["--log-level", "error"], name="serve-cost") as device:
        ready = time.monotonic() - began
        process = Path(f"/proc/{device.pid}")
        pages = int((process / "statm").read_text().split()[1])
        before = _switches(process)
        time.sleep(IDLE_SECONDS)
        return ServeCost(ready, pages * os.sysconf("SC_PAGE_SIZE"), _switches(process) - before)


def _switches(process: Path) -> int:
    """Context switches of all threads so far."""
    return sum(
        int(line.split()[1])
        for status in process.glob("task/*/status")
        for line in status.read_text().splitlines()
        if "ctxt_switches" in line
    )
