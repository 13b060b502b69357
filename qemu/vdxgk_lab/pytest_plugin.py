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
    from pathlib import Path

    from pyvfio_user import Device
    from vdxgk_lab.artifacts import Artifacts
    from vdxgk_lab.command_line import MachineConfig
    from vdxgk_lab.device_process import DeviceProcess
    from vdxgk_lab.dma_oracle import DmaOracle
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


class ServeDevice(Protocol):
    """Serves a device of the test's own, until the test ends, after the machines."""

    def __call__(self, device: Device, name: str = "own") -> Path:
        """Serve it in this process; answers its socket.  Several need different names."""


class WatchDevice(Protocol):
    """Puts a DMA oracle on a device of the test's own."""

    def __call__(self, device: Device, address_bits: int = 64, name: str = "dma") -> DmaOracle:
        """Watch it; what is found is saved with the logs, in `<name>-oracle.txt`."""


class BuildModule(Protocol):
    """Builds a kernel module for a guest."""

    def __call__(self, source: Path, kernel: Kernel | None = None) -> Path:
        """The module that a directory with a Kbuild or Makefile makes, for a guest's kernel."""


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
def vdxgk_serve(vdxgk_run: RunDirectory) -> Iterator[ServeDevice]:
    """A function that serves pyvfio-user devices of the test's own."""
    from vdxgk_lab.served import served  # noqa: PLC0415

    with contextlib.ExitStack() as stack:

        def serve(device: Device, name: str = "own") -> Path:
            return stack.enter_context(served(device, vdxgk_run.path / f"{name}.sock"))

        yield serve


@pytest.fixture
def vdxgk_watch(vdxgk_run: RunDirectory) -> Iterator[WatchDevice]:
    """A function that puts a DMA oracle on a device."""
    from vdxgk_lab.dma_oracle import DmaOracle  # noqa: PLC0415

    oracles: dict[str, DmaOracle] = {}

    def watch(device: Device, address_bits: int = 64, name: str = "dma") -> DmaOracle:
        oracles[name] = DmaOracle(device, address_bits)
        return oracles[name]

    yield watch
    for name, oracle in oracles.items():
        (vdxgk_run.path / f"{name}-oracle.txt").write_text(oracle.report() + "\n")


@pytest.fixture(scope="session")
def vdxgk_module(vdxgk_prepare: Callable[[Kernel], Artifacts]) -> BuildModule:
    """A function that builds kernel modules for guests."""
    from vdxgk_lab import guest_module, trees  # noqa: PLC0415
    from vdxgk_lab.cache import Cache  # noqa: PLC0415
    from vdxgk_lab.progress import Reporter  # noqa: PLC0415

    def build(source: Path, kernel: Kernel | None = None) -> Path:
        chosen = kernel or trees.DEFAULT_KERNEL
        vdxgk_prepare(chosen)
        cache, reporter = Cache(), Reporter()
        tree = trees.ensure(trees.GUESTS[chosen], cache, reporter)
        return guest_module.ensure(source, tree, cache, reporter)

    return build


@pytest.fixture
def vdxgk_start_machine(
    vdxgk_prepare: Callable[[Kernel], Artifacts],
    vdxgk_run: RunDirectory,
    vdxgk_start_device: StartDevice,
    vdxgk_serve: ServeDevice,
) -> Iterator[StartMachine]:
    """A function that starts machines."""
    # Machines end before the devices: that is why those fixtures are asked for.
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
