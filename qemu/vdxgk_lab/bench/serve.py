"""What a server costs before anybody uses it, and while its guest is idle."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vdxgk_lab.bench.figures import Figure, compare, timed
from vdxgk_lab.device_process import DeviceProcess


@dataclass(frozen=True, slots=True)
class IdleCost:
    """A server that nobody asks for anything."""

    resident_bytes: int
    wake_ups: int
    """Voluntary context switches of all its threads, in `seconds`."""
    seconds: float

    @classmethod
    def of(cls, pid: int, seconds: float) -> Self:
        """Watch a server for so long."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        before = _wake_ups(pid)
        time.sleep(seconds)
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), _wake_ups(pid) - before, seconds)

    def as_json(self) -> dict[str, Any]:
        """As the other figures."""
        return {
            "resident_bytes": self.resident_bytes,
            "wake_ups": self.wake_ups,
            "seconds": self.seconds,
        }


def ready(directory: Path, repetitions: int) -> Figure:
    """From the start of a server until QEMU could connect, against a Python that does nothing."""

    def serve() -> float:
        began = time.perf_counter()
        with DeviceProcess(directory, ["--log-level", "error"], name="serve-cost"):
            return time.perf_counter() - began

    python = timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    return compare("vdxgk serve is ready", "empty Python", (python, serve), repetitions)


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far."""
    return sum(int(text.split()[0]) for text in _of_threads(pid, "schedstat")) / 1e9


def _wake_ups(pid: int) -> int:
    return sum(
        int(line.split()[1])
        for status in _of_threads(pid, "status")
        for line in status.splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def _of_threads(pid: int, name: str) -> Iterator[str]:
    """A file of /proc for each thread; some end while they are asked."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield (task / name).read_text()
