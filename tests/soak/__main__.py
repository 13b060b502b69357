"""Everything at once, for as long as asked: `make soak ARGS="--minutes 30"`.

One server process with two adapters.  In each round a guest boots, makes
objects and lists, shows a picture of its own memory, does DMA on both paths in
both directions, is refused what it must be refused; does it again after the
function was removed and found anew, and after a reset; and ends: killed, or
with the second adapter plugged in and pulled out.  Viewers, and others who ask
what the device holds, come and go all the while.  Between rounds, when nobody
is connected, the server must hold what it held after the first round.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.e2e.test_scanout import check, picture, surface
from tests.footprint import Footprint
from tests.unit.vdxgk.vnc.viewer import RAW, ZRLE, SocketViewer
from tests.waiting import wait_for
from vdxgk.control import ask
from vdxgk_lab import artifacts
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import VmLost
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import MIB, OBJECTS
from vdxgk_lab.proof.evidence import ObjectEvidence, ScenarioEvidence
from vdxgk_lab.proof.objects import exercise, tear_down
from vdxgk_lab.proof.run import announced_mappings, device_status
from vdxgk_lab.proof.stub import Stub
from vdxgk_lab.run_directory import RunDirectory

MEMORY = 5 << 30
"""More than the device's 32 address bits reach."""
SLOT = {"driver": "pcie-root-port", "id": "behind", "chassis": 9, "addr": "09.0"}
FUNCTION = "0000:00:05.0"
PATIENCE = 300.0


@dataclass
class Tally:
    """What was done."""

    rounds: int = 0
    lives: int = 0
    objects: int = 0
    checks: int = 0
    plugs: int = 0
    viewers: int = 0
    frames: int = 0
    questions: int = 0
    samples: list[Footprint] = field(default_factory=list)

    def take(self, evidence: ObjectEvidence | ScenarioEvidence) -> None:
        """Count what was checked.  Raises AssertionError for what failed."""
        assert evidence.ok, [(item.name, item.detail) for item in evidence.checklist.failures]
        self.checks += len(evidence.checklist.checks)


# ---- viewers -----------------------------------------------------------------


@contextlib.contextmanager
def viewers_come_and_go(path: Path, control: Path, tally: Tally) -> Iterator[None]:
    """Polite ones, rude ones, and such that ask for a picture and never take it.

    Each also asks at the control door.
    """
    ending = threading.Event()
    failures: list[BaseException] = []

    def come_and_go(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not ending.is_set():
                viewer = SocketViewer(str(path))
                viewer.encodings(chance.choice([RAW, ZRLE]))
                for _ in range(chance.randrange(4)):
                    viewer.request(incremental=False)
                    viewer.key(True, 0x61)
                    viewer.pointer(1, 3, 4)
                    if chance.random() < 0.9:
                        viewer.update()
                        tally.frames += 1
                viewer.socket.close()
                tally.viewers += 1
                ask(str(control), chance.choice(["query-status", "screenshot", "take-input"]))
                tally.questions += 1
                ending.wait(0.2)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=come_and_go, args=[seed]) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


# ---- the guest ---------------------------------------------------------------


def live(machine: Machine, device: DeviceProcess, tally: Tally) -> None:
    """What a guest does between booting and going."""
    guest, stub = machine.guest, Stub(machine.guest)
    status = device_status(device.control)
    announced = announced_mappings(status)
    tally.take(scenarios.logical_mode_starts(guest, stub))
    made = []
    for number, case in enumerate(case for case in OBJECTS if case.size <= MIB):
        made.append(exercise(stub, announced, case, number))
        tally.take(made[-1].evidence)
    width, height = 640, 480
    with surface(stub, width, height, contiguous=False) as shown:
        shown.draw(tally.lives)
        shown.present()
        check(device, picture(width, height, tally.lives))
        tally.checks += 1
    tally.take(scenarios.contents_survived(stub, made))
    tally.take(scenarios.canaries_are_untouched(stub))
    tally.take(scenarios.messages_reach_remapped_memory(stub, announced))
    tally.take(scenarios.nothing_granted_is_refused(guest, stub, status, made[0]))
    tally.take(scenarios.a_freed_list_is_refused(guest, stub, status, announced))
    for item in made:
        tear_down(stub, item)
    tally.take(scenarios.nothing_is_left(guest, status))
    tally.objects += len(made)
    tally.lives += 1


def plug_and_pull(machine: Machine, device: DeviceProcess, tally: Tally) -> None:
    """The second adapter comes while the guest runs, and goes again.

    QEMU 11.1 does not survive that (docs/qemu-findings.md); the server has to.
    """

    def connected() -> bool:
        return bool(ask(str(device.controls[1]), "query-status")["connected"])

    where = {"type": "unix", "path": str(device.sockets[1])}
    properties = {"driver": "vfio-user-pci", "id": "second", "bus": "behind", "socket": where}
    machine.qmp.execute("device_add", properties, PATIENCE)
    wait_for(connected, "the second adapter's client", PATIENCE)
    find = ["sh", "-c", "grep -l 0x1111 /sys/bus/pci/devices/*/device | wc -l"]
    wait_for(
        lambda: machine.guest.run(find).stdout.strip() == "2", "the guest sees the second", PATIENCE
    )
    with contextlib.suppress(VmLost):
        machine.qmp.execute("device_del", {"id": "second"})
    wait_for(lambda: not connected(), "the guest lets the second go", PATIENCE)
    tally.plugs += 1


def remove_and_rescan(machine: Machine) -> None:
    """The guest forgets the function, and finds it again."""
    bus = "/sys/bus/pci"
    again = f"echo 1 >{bus}/devices/{FUNCTION}/remove && echo 1 >{bus}/rescan"
    machine.guest.run(["sh", "-c", f"{again} && [ -d {bus}/devices/{FUNCTION} ]"]).check()


def reboot(machine: Machine) -> None:
    """The reset button, and the same kernel once more."""
    identity = ["cat", "/proc/sys/kernel/random/boot_id"]
    before = machine.guest.run(identity).check().stdout
    machine.qmp.execute("set-action", {"reboot": "reset"})
    machine.qmp.execute("system_reset")
    machine.guest.wait_ready()
    assert machine.guest.run(identity).check().stdout != before


def one_round(
    number: int, made: Artifacts, directory: Path, device: DeviceProcess, tally: Tally
) -> None:
    """A machine's whole life."""
    config = MachineConfig(
        memory=MEMORY,
        devices=(device.socket,),
        kernel_args=("vdxgk_load=no",),
        qemu_args=("-device", json.dumps(SLOT)),
    )
    with Machine(config, made, directory, f"vm{number % 2}") as machine:
        live(machine, device, tally)
        remove_and_rescan(machine)
        live(machine, device, tally)
        reboot(machine)
        live(machine, device, tally)
        if number % 2:
            plug_and_pull(machine, device, tally)
        else:
            os.kill(machine.pid, signal.SIGKILL)
    tally.rounds += 1


def sample(device: DeviceProcess, tally: Tally) -> None:
    """Look at the server when nobody is connected."""

    def is_quiet() -> bool:
        return not any(ask(str(each), "query-status")["connected"] for each in device.controls)

    wait_for(is_quiet, "nobody is connected", PATIENCE)
    tally.samples.append(Footprint.of(device.pid))
    click.echo(f"round {tally.rounds:3}  {tally.samples[-1]}")


@click.command()
@click.option("--minutes", type=float, default=0.5, show_default=True, help="At least so long.")
def main(minutes: float) -> None:
    """Soak the server; exit status 1 if it holds more at the end than at the beginning."""
    made = artifacts.prepare()
    tally = Tally()
    end = time.monotonic() + 60 * minutes
    with RunDirectory("soak") as run:
        screens = [run.path / f"screen{number}" for number in range(2)]
        options = [word for path in screens for word in ("--vnc", str(path))]
        with DeviceProcess(run.path, options, adapters=2) as device:
            click.echo(f"start      {Footprint.of(device.pid)}")
            for number in itertools.count():
                with viewers_come_and_go(screens[0], device.control, tally):
                    one_round(number, made, run.path, device, tally)
                device.check()
                sample(device, tally)
                if time.monotonic() > end and tally.rounds > 1:
                    break
            device.check()
    click.echo(
        f"{tally.rounds} machines, {tally.lives} boots, {tally.objects} objects, {tally.checks} "
        f"checks, {tally.plugs} hot plugs, {tally.viewers} viewers, {tally.frames} pictures, "
        f"{tally.questions} questions"
    )
    excess = tally.samples[-1].excess(tally.samples[0])
    click.echo(f"more than after the first round: {', '.join(excess) or 'nothing'}")
    sys.exit(bool(excess))


if __name__ == "__main__":
    main()
