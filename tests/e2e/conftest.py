"""A guest with the stub started in logical mode, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from vdxgk.control import ask
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.guest import Guest
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.run import announced_mappings, device_status
from vdxgk_lab.proof.stub import Stub
from vdxgk_lab.run_directory import RunDirectory

MEMORY = 5 << 30
"""More than the device's 32 address bits reach."""


@dataclass(frozen=True)
class Bench:
    """A running guest, its stub, and the device that may be told to misbehave."""

    machine: Machine
    device: DeviceProcess
    stub: Stub
    status: Callable[[], dict[str, Any]]
    announced: Callable[[int], int]

    @property
    def guest(self) -> Guest:
        return self.machine.guest

    def misbehave(self, kind: str) -> None:
        """The device breaks a promise, once."""
        ask(str(self.device.control), "misbehave", kind=kind)

    def last_event(self, kind: str) -> dict[str, Any]:
        """The newest event of a kind that the guest got."""
        return [event for event in self.stub.events() if event["type"] == kind][-1]


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, vdxgk_artifacts: Artifacts) -> Iterator[Bench]:
    """One guest for a module's tests; each of them leaves it as it found it."""
    failed_before = request.session.testsfailed
    with (
        RunDirectory(request.module.__name__, request.config.rootpath / "results") as run,
        DeviceProcess(run.path, ["--misbehave"]) as device,
    ):
        config = MachineConfig(
            memory=MEMORY, devices=(device.socket,), kernel_args=("vdxgk_load=no",)
        )
        with Machine(config, vdxgk_artifacts, run.path) as machine:
            assert scenarios.load_stub(machine.guest, "logical"), machine.console[-2000:]
            status = device_status(device.control)
            yield Bench(machine, device, Stub(machine.guest), status, announced_mappings(status))
            assert machine.alive
            device.check()
        if request.session.testsfailed > failed_before:
            print(f"Logs: {run.keep()}")
