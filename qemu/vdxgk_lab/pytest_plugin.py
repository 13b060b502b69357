"""Pytest fixtures that boot guests. Everything is saved when a test fails.

Locally, a host on which set-up fails skips such tests with the reason; with
`CI` in the environment they fail.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

# Sessions that boot nothing should not pay for the laboratory's imports.
if TYPE_CHECKING:
    from vdxgk_lab.artifacts import Artifacts
    from vdxgk_lab.command_line import MachineConfig
    from vdxgk_lab.device_process import DeviceProcess
    from vdxgk_lab.machine import Machine
    from vdxgk_lab.run_directory import RunDirectory
    from vdxgk_lab.trees import Kernel

_FAILED = pytest.StashKey[bool]()


class StartMachine(Protocol):
    """Starts a machine, which ends with the test."""

    def __call__(
        self, config: MachineConfig | None = None, name: str = "vm", kernel: Kernel | None = None
    ) -> Machine:
        """Start one, with the default kernel unless told; several need different names."""


class StartDevice(Protocol):
    """Starts a device's server, which ends with the test, after the machines."""

    def __call__(self, *options: str, name: str = "device", adapters: int = 1) -> DeviceProcess:
        """Start one with options of `vdxgk serve`; several need different names."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember which tests failed, for the fixtures that save things."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def vdxgk_prepare() -> Callable[[Kernel], Artifacts]:
    """A function that sets up QEMU and a guest with one of the kernels."""
    from vdxgk_lab import artifacts  # noqa: PLC0415
    from vdxgk_lab.errors import LabError  # noqa: PLC0415

    @functools.cache
    def prepare(kernel: Kernel) -> Artifacts:
        try:
            return artifacts.prepare(kernel)
        except LabError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))

    return prepare


@pytest.fixture(scope="session")
def vdxgk_artifacts(vdxgk_prepare: Callable[[Kernel], Artifacts]) -> Artifacts:
    """QEMU, the default kernel and its initramfs."""
    from vdxgk_lab.trees import DEFAULT_KERNEL  # noqa: PLC0415

    return vdxgk_prepare(DEFAULT_KERNEL)


@pytest.fixture
def vdxgk_run(request: pytest.FixtureRequest) -> Iterator[RunDirectory]:
    """The directory of this test's logs and sockets, kept if the test fails."""
    from vdxgk_lab.run_directory import RunDirectory  # noqa: PLC0415

    with RunDirectory(request.node.name, request.config.rootpath / "results") as run:
        yield run
        if request.node.stash.get(_FAILED, False):
            request.node.add_report_section("teardown", "vdxgk", f"Logs: {run.keep()}")


@pytest.fixture
def vdxgk_start_device(vdxgk_run: RunDirectory) -> Iterator[StartDevice]:
    """A function that starts device servers."""
    from vdxgk_lab.device_process import DeviceProcess  # noqa: PLC0415

    with contextlib.ExitStack() as stack:

        def start(*options: str, name: str = "device", adapters: int = 1) -> DeviceProcess:
            return stack.enter_context(DeviceProcess(vdxgk_run.path, options, name, adapters))

        yield start


@pytest.fixture
def vdxgk_start_machine(
    vdxgk_prepare: Callable[[Kernel], Artifacts],
    vdxgk_run: RunDirectory,
    vdxgk_start_device: StartDevice,
) -> Iterator[StartMachine]:
    """A function that starts machines."""
    # Machines end before the devices: that is why the device fixture is asked for.
    from vdxgk_lab.command_line import MachineConfig  # noqa: PLC0415
    from vdxgk_lab.machine import Machine  # noqa: PLC0415
    from vdxgk_lab.trees import DEFAULT_KERNEL  # noqa: PLC0415

    with contextlib.ExitStack() as stack:

        def start(
            config: MachineConfig | None = None, name: str = "vm", kernel: Kernel | None = None
        ) -> Machine:
            made = vdxgk_prepare(kernel or DEFAULT_KERNEL)
            machine = Machine(config or MachineConfig(), made, vdxgk_run.path, name)
            return stack.enter_context(machine)

        yield start
