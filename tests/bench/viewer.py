"""What a viewer costs, and how fast it sees a guest's surfaces move.

    .venv/bin/python -m tests.bench.viewer

A guest presents surfaces of 1920x1080 in scattered, remapped memory.  Told are the
processor time of the device with nobody attached, with a viewer and a picture that
stands, and the frames a second that a viewer takes (raw pixels, at a UNIX socket)
while the guest shows another of seven pictures at every vertical blank (with two, a
viewer that looks at every second vertical blank would always see the same one).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from tests.e2e.test_scanout import surface
from tests.unit.vdxgk.vnc.viewer import DESKTOP_SIZE, RAW, SocketViewer
from vdxgk_lab import artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof.stub import Stub
from vdxgk_lab.run_directory import RunDirectory

WIDTH, HEIGHT = 1920, 1080
SECONDS = 10


class Usage:
    """Processor time and wake-ups of a process, from here on."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._began = time.monotonic()
        self._before = self._now()

    def _now(self) -> tuple[float, int]:
        ticks = switches = 0
        for task in self._tasks.iterdir():
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            status = (task / "status").read_text()
            switches += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return ticks / os.sysconf("SC_CLK_TCK"), switches

    def __str__(self) -> str:
        seconds = time.monotonic() - self._began
        used, switches = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        return f"{100 * used / seconds:.1f} % of a core, {switches / seconds:.1f} wake-ups a second"


def watch(viewer: SocketViewer, stop: threading.Event) -> int:
    """Take updates; how many had pixels.

    The next one is asked for while this one is on its way, as viewers do.
    """
    frames = 0
    viewer.request()
    while not stop.is_set():
        viewer.request()
        viewer.update()
        frames += 1
    return frames


def main() -> None:
    """Measure and print."""
    made = artifacts.prepare()
    with (
        RunDirectory("viewer") as run,
        DeviceProcess(run.path, ["--vnc", str(run.path / "vnc")]) as device,
        Machine(MachineConfig(devices=(device.socket,)), made, run.path) as machine,
    ):
        stub = Stub(machine.guest)
        with contextlib.ExitStack() as stack:
            surfaces = [
                stack.enter_context(surface(stub, WIDTH, HEIGHT, padding=0)) for _ in range(7)
            ]
            for seed, each in enumerate(surfaces):
                each.draw(seed)
            surfaces[0].present()
            usage = Usage(device.pid)
            time.sleep(SECONDS)
            print(f"nobody attached: {usage}")

            viewer = SocketViewer(str(run.path / "vnc"))
            viewer.encodings(RAW, DESKTOP_SIZE)
            viewer.request(incremental=False)
            viewer.update()
            viewer.request()
            time.sleep(2)
            usage = Usage(device.pid)
            time.sleep(SECONDS)
            print(f"a viewer, a picture that stands: {usage}")

            lines = [" ".join(["present", each.adl, *each.shape]) for each in surfaces]
            flips = "\n".join(lines * (SECONDS * 60 // len(lines)))
            machine.guest.run(["sh", "-c", "cat >/run/flips"], stdin=flips.encode()).check()
            command = "dxgkctl script - </run/flips >/run/flipped 2>&1 &"
            machine.guest.run(["sh", "-c", command]).check()
            viewer.update()
            usage = Usage(device.pid)
            stop = threading.Event()
            threading.Timer(SECONDS * 0.8, stop.set).start()
            began = time.monotonic()
            frames = watch(viewer, stop)
            rate = frames / (time.monotonic() - began)
            print(f"motion: {rate:.1f} frames a second to the viewer, {usage}")
            time.sleep(SECONDS)
            print(machine.guest.run(["sh", "-c", "tail -n 1 /run/flipped"]).stdout)


if __name__ == "__main__":
    main()
