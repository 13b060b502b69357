"""The protocol: a server of ours against a C echo, both driven by the same C client.

And the leanest loop with Python's socket module against the same echo: what of a ratio
is the language's, and what is ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vdxgk_lab import processes
from vdxgk_lab.bench import lean_echo
from vdxgk_lab.bench.figures import Figure, Measure, compare
from vdxgk_lab.bench.serve import cpu_seconds
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import LabError

REGISTER = "4:0"
"""BAR and offset of the channel's MAGIC register."""
WINDOW = 64
"""Messages in flight where they are pipelined."""
FEW, MANY = 1000, 60_000
"""Mappings there before, where the question is whether the table stays flat."""
MOST_MAPPED = 65_535

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
def echo_server(program: Sequence[str], socket: Path) -> Iterator[tuple[Path, int]]:
    """An echo at a socket; and its process."""
    command = processes.bound_to_parent([*program, str(socket)])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise LabError("the benchmark's echo server did not start.")
            yield socket, process.pid
        finally:
            processes.end(process)


@contextmanager
def apart(*servers: int) -> Iterator[None]:
    """The servers on one processor; this process and its clients on another.

    Where the scheduler may choose, it sometimes puts both on the same one, and
    an exchange then costs half as much or, pipelined, twice.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        for server in servers:
            for thread in Path(f"/proc/{server}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {max(allowed)})
        os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def echo_cost(program: Path, directory: Path, count: int) -> Iterator[Callable[[str], float]]:
    """How much processor time an answer costs the C echo, the kernel's part of it included.

    For an operation, one at a time, over ``count`` of them.
    """
    client = Client(program, count)
    with echo_server([str(program), "echo"], directory / "cost.sock") as (socket, pid):

        def cost(operation: str) -> float:
            with apart(pid):
                before = cpu_seconds(pid)
                client.seconds(socket, "echo", operation, 1)
                return (cpu_seconds(pid) - before) / count

        yield cost


def run(program: Path, directory: Path, count: int, repetitions: int) -> Iterator[Figure]:
    """All cases, then whether mapping stays flat."""
    client = Client(program, count)
    flat = Client(program, min(count, MOST_MAPPED - MANY))
    with (
        echo_server([str(program), "echo"], directory / "echo.sock") as (echo, echo_pid),
        echo_server([sys.executable, lean_echo.__file__], directory / "lean.sock") as (
            lean,
            lean_pid,
        ),
        DeviceProcess(directory, ["--log-level", "error"], name="bench") as device,
        apart(echo_pid, lean_pid, device.pid),
    ):
        for name, operation, window, budget in CASES:

            def floor(operation: str = operation, window: int = window) -> float:
                return client.seconds(echo, "echo", operation, window)

            def ours(operation: str = operation, window: int = window) -> float:
                return client.seconds(device.socket, "vfio", operation, window)

            def python(operation: str = operation, window: int = window) -> float:
                return client.seconds(lean, "echo", operation, window)

            yield compare(name, "C echo", (floor, ours), repetitions, budget)
            yield compare(f"{name}: Python's least", "C echo", (floor, python), repetitions)
        for operation in ("map", "unmap"):

            def at(first: int, operation: str = operation) -> Measure:
                return lambda: flat.seconds(device.socket, "vfio", operation, 1, first)

            name = f"DMA_{operation.upper()} at {MANY:,} mappings"
            yield compare(name, f"at {FEW:,}", (at(FEW), at(MANY)), repetitions, 1.2)
