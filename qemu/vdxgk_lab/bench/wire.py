"""The protocol: a server of ours against a C echo, both driven by the same C client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vdxgk_lab import processes
from vdxgk_lab.bench.figures import Figure, Measure, compare
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import LabError

REGISTER = "4:0"
"""BAR and offset of the channel's MAGIC register."""
WINDOW = 64
"""Messages in flight where they are pipelined."""

# name, operation, window, budget (ours over floor, in time)
CASES = (
    ("region read, 4 bytes", "read", 1, 1.15),
    ("region write, 4 bytes", "write", 1, 1.25),
    ("DMA_MAP of a page", "map", 1, 1.35),
    ("DMA_UNMAP of a page", "unmap", 1, 1.35),
    ("region reads, pipelined", "read", WINDOW, 1 / 1.3),
    ("DMA_MAP, pipelined", "map", WINDOW, 1 / 0.6),
    ("DMA_UNMAP, pipelined", "unmap", WINDOW, 1.0),
)


class Client:
    """The C client."""

    def __init__(self, program: Path, count: int) -> None:
        self._program = program
        self._count = count

    def seconds(
        self, socket: Path, kind: str, operation: str, window: int, first: int = 0
    ) -> float:
        """For one operation, over `count` of them, `first` mappings being there already."""
        command = [
            *(str(self._program), "client", str(socket), kind, operation),
            *(str(first), str(self._count), str(window), REGISTER),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise LabError(f"the benchmark's client failed: {run.stderr.strip()}")
        return int(run.stdout) / 1e9 / self._count


@contextmanager
def echo_server(program: Path, directory: Path) -> Iterator[Path]:
    """The floor."""
    socket = directory / "echo.sock"
    command = processes.bound_to_parent([str(program), "echo", str(socket)])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise LabError("the benchmark's echo server did not start.")
            yield socket
        finally:
            processes.end(process)


def run(program: Path, directory: Path, count: int, repetitions: int) -> Iterator[Figure]:
    """All cases, then whether mapping stays flat."""
    client = Client(program, count)
    with (
        echo_server(program, directory) as echo,
        DeviceProcess(directory, ["--log-level", "error"], name="bench") as device,
    ):
        for name, operation, window, budget in CASES:

            def floor(operation: str = operation, window: int = window) -> float:
                return client.seconds(echo, "echo", operation, window)

            def ours(operation: str = operation, window: int = window) -> float:
                return client.seconds(device.socket, "vfio", operation, window)

            yield compare(name, "C echo", (floor, ours), repetitions, budget)
        for operation in ("map", "unmap"):

            def at(first: int, operation: str = operation) -> Measure:
                return lambda: client.seconds(device.socket, "vfio", operation, 1, first)

            name = f"DMA_{operation.upper()} at 50,000 mappings"
            yield compare(name, "at 1,000", (at(1000), at(50_000)), repetitions, 1.2)
