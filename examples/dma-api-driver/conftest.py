"""The machine that the tests share: a guest with the driver's module, our device in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from device import ADDRESS_BITS, Incrementer

from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.dma_oracle import DmaOracle
from vdxgk_lab.guest import CommandResult
from vdxgk_lab.machine import Machine
from vdxgk_lab.pytest_plugin import BuildModule, ServeDevice, StartMachine, WatchDevice

HERE = Path(__file__).parent
PCI = "0000:00:05.0"
SELFTEST = f"/sys/bus/pci/devices/{PCI}/selftest"

BUGS = {
    "right": 0,
    "use after unmap": 1,
    "wrong direction": 2,
    "short mapping": 3,
    "missing sync": 4,
    "forgotten mask": 5,
    "kept": 6,
}


@dataclass
class Bench:
    """A guest with the driver, and the oracle that watches its device."""

    machine: Machine
    oracle: DmaOracle

    def load(self, bug: str, scattered: int = 0) -> None:
        """Load the driver with one of its bugs; the oracle begins anew.

        `scattered`: the destination is a scatter list of so many pieces.
        """
        self.oracle.restart()
        parameters = [f"bug={BUGS[bug]}", f"scattered={scattered}"]
        self.machine.guest.run(["insmod", "/tmp/incrementer.ko", *parameters]).check()

    def selftest(self) -> CommandResult:
        """What the driver itself notices."""
        return self.machine.guest.run(["sh", "-c", f"echo 1 > {SELFTEST}"], timeout=180)

    def unload(self) -> None:
        """Take the driver away; what it mapped goes with it."""
        self.machine.guest.run(["rmmod", "incrementer"]).check()


@pytest.fixture
def start_bench(
    vdxgk_serve: ServeDevice,
    vdxgk_watch: WatchDevice,
    vdxgk_start_machine: StartMachine,
    vdxgk_module: BuildModule,
) -> Iterator[Callable[[MachineConfig], Bench]]:
    """A function that starts a machine with the device in it, and the module in the guest."""
    incrementer = Incrementer()

    def start(config: MachineConfig) -> Bench:
        oracle = vdxgk_watch(incrementer.device, address_bits=ADDRESS_BITS)
        socket = vdxgk_serve(incrementer.device)
        machine = vdxgk_start_machine(config.with_devices(socket))
        machine.guest.put("/tmp/incrementer.ko", vdxgk_module(HERE / "driver").read_bytes())
        return Bench(machine, oracle)

    yield start
    incrementer.close()
