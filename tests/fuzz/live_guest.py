"""A guest that torments a live server from behind real QEMU: fuzzing_guest.c in an initramfs.

    python -m tests.fuzz.live_guest 1000000 [SEED]

The guest has an IOMMU and no driver.  Then the stub is loaded, and everything must work.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.footprint import Footprint, resident
from tests.waiting import wait_for
from vdxgk.control import ask
from vdxgk_lab import artifacts, guest_program, initramfs, stub_build, trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.cache import Cache
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.guest import Guest
from vdxgk_lab.machine import Machine
from vdxgk_lab.progress import Reporter
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import MIB, ObjectCase
from vdxgk_lab.proof.objects import exercise, tear_down
from vdxgk_lab.proof.run import announced_mappings, device_status
from vdxgk_lab.proof.stub import Stub

SOURCE = Path(__file__).with_name("fuzzing_guest.c")
FUNCTION = "/sys/bus/pci/devices/0000:00:05.0"
ROUND = 100_000
"""Steps of one process in the guest."""
PATIENCE = 600
LOOK_SECONDS = 0.1
ROOM = 32 << 10
"""KiB that the allocator may keep of what the guest made and lost, however long it goes on."""
OBJECT = ObjectCase("MDL", "mdl", 256 << 10)


def prepare() -> Artifacts:
    """A guest with the program in it.  Raises LabError."""
    cache, reporter = Cache(), Reporter()
    made = artifacts.prepare(cache=cache, reporter=reporter)
    tree = trees.ensure(trees.GUESTS[trees.DEFAULT_KERNEL], cache, reporter)
    stub = stub_build.ensure(tree, cache, reporter)
    headers = sorted((stub_build.sources() / "include").glob("*.h"))
    program = guest_program.ensure(SOURCE, tree, cache, headers)
    payload = initramfs.Payload(programs=(stub.control, program), modules=(stub.module,))
    return replace(made, initramfs=initramfs.ensure(tree, payload, cache))


def torment(guest: Guest, steps: int, seed: int) -> Counter[str]:
    """One process in the guest; what it counted."""
    done = guest.run(["fuzzing_guest", str(seed), str(steps), FUNCTION], timeout=PATIENCE)
    return Counter(json.loads(done.check().stdout))


@contextlib.contextmanager
def somebody_looks(device: DeviceProcess) -> Iterator[None]:
    """What the guest shows is read all the while, whatever it says that it is."""
    done = threading.Event()

    def look() -> int:
        for pictures in itertools.count():
            if done.wait(LOOK_SECONDS):
                return pictures
            assert ask(str(device.control), "screenshot", timeout=PATIENCE)["png"]
        raise AssertionError

    with ThreadPoolExecutor(1) as eyes:
        pictures = eyes.submit(look)
        try:
            yield
        finally:
            done.set()
        assert pictures.result()


def works(device: DeviceProcess, guest: Guest) -> None:
    """The stub loads, both sides write and read an object by both paths, and it unloads."""
    status = device_status(device.control)
    assert scenarios.load_stub(guest, "logical")
    stub = Stub(guest)
    made = exercise(stub, announced_mappings(status), OBJECT, 7)
    assert made.evidence.ok, made.evidence.checklist.failures
    assert stub.device_crc32(made.logical, OBJECT.size, messages=True) == made.crc
    tear_down(stub, made)
    assert status()["objects"] == []
    assert scenarios.unload_stub(guest)


def settled(device: DeviceProcess, before: Footprint) -> Footprint:
    """What the server holds once it is no more than before: its log is a second behind."""
    looks: list[Footprint] = []

    def is_as_before() -> bool:
        looks.append(Footprint.of(device.pid))
        more = set(looks[-1].excess(before)) - {"resident"}
        return not more and looks[-1].resident <= before.resident + ROOM

    try:
        wait_for(is_as_before, "the server holds what it held", patience=60)
    except AssertionError as error:
        raise AssertionError(f"{before}, then {looks[-1]}") from error
    return looks[-1]


def run(directory: Path, made: Artifacts, steps: int, seed: int) -> Counter[str]:
    """So many steps in rounds, each from a seed of its own.  Raises AssertionError, LabError."""
    total: Counter[str] = Counter()
    with DeviceProcess(directory) as device:
        config = MachineConfig(
            memory=512 * MIB, devices=(device.socket,), kernel_args=("vdxgk_load=no",)
        )
        with Machine(config, made, directory) as machine:
            works(device, machine.guest)
            with somebody_looks(device):
                torment(machine.guest, min(steps, ROUND) // 10, seed)
            before = Footprint.of(device.pid)
            for number, start in enumerate(range(0, steps, ROUND), 1):
                size = min(ROUND, steps - start)
                with somebody_looks(device):
                    total += torment(machine.guest, size, seed + number)
                device.check()
                if steps > ROUND:
                    print(f"{dict(total)}, {resident(device.pid)} KiB", flush=True)
            after = settled(device, before)
            works(device, machine.guest)
            assert machine.alive
        device.check()
        said = device.log.read_text()
        for bug in ("Traceback", "internal error", "handler_failed"):
            assert bug not in said, said[said.index(bug) - 1000 :][:4000]
        total["bytes of log"] = len(said)
    print(f"{dict(total)}; {before}, then {after}")
    return total


def main() -> None:
    """So many steps as the first argument says."""
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), prepare(), int(sys.argv[1]), seed)


if __name__ == "__main__":
    main()
