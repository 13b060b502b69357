"""The server ends under a machine: what QEMU does then (docs/recovery.md)."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.qtest.lane import ADAPTER_SLOT, PLATFORMS
from tests.waiting import wait_for
from vdxgk.channel import layout
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.run_directory import RunDirectory

GONE = 0xFFFF_FFFF
"""What a register of a device that has gone reads as."""
UNDER_WAY = 0.3
"""Seconds after which an access has reached a server that is stopped."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_goes_leaves_the_machine_alive(
    qemu: QemuBinary, vdxgk_run: RunDirectory, number: signal.Signals
) -> None:
    """Reads give ones, writes go nowhere; by SIGKILL too, if nothing was under way."""
    with DeviceProcess(vdxgk_run.path) as device:
        config = QtestConfig(
            (PLATFORMS["intel"].device, vfio_user(str(device.socket), ADAPTER_SLOT))
        )
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            gpu = BareAdapter(machine.qtest, PciFunction(machine.qtest, ADAPTER_SLOT))
            gpu.start(MmioWindow())
            assert gpu.read(layout.REG_MAGIC) == layout.MAGIC
            os.kill(device.pid, number)
            wait_for(lambda: not device.alive, "the server has gone")
            for _ in range(3):
                assert gpu.read(layout.REG_MAGIC) == GONE
                gpu.write(layout.REG_CHANNEL_DOORBELL, 1)
            assert machine.alive
            assert machine.qmp.execute("query-status")
        if number == signal.SIGTERM:
            said = device.log.read_text()
            assert "A second signal ends at once" in said
            assert "stopped" in said


@pytest.mark.parametrize("access", ["read", "write"])
def test_a_server_that_is_killed_in_an_access_takes_qemu_along(
    qemu: QemuBinary, vdxgk_run: RunDirectory, access: str
) -> None:
    """A defect of QEMU's (docs/qemu-findings.md): where it is mended, this turns red."""
    with DeviceProcess(vdxgk_run.path) as device:
        config = QtestConfig((vfio_user(str(device.socket), ADAPTER_SLOT),))
        machine = QtestMachine(config, qemu, vdxgk_run.path)
        with pytest.raises(VmLost), machine:
            access_while_killed(machine, device, access)
        assert machine.exit_status() == -signal.SIGABRT
        assert "error_setv: Assertion" in machine.words


def access_while_killed(machine: QtestMachine, device: DeviceProcess, access: str) -> None:
    """A request that the server has not read when it is killed."""
    gpu = BareAdapter(machine.qtest, PciFunction(machine.qtest, ADAPTER_SLOT))
    gpu.start(MmioWindow())
    os.kill(device.pid, signal.SIGSTOP)
    killing = threading.Timer(UNDER_WAY, os.kill, (device.pid, signal.SIGKILL))
    killing.start()
    try:
        if access == "write":
            gpu.write(layout.REG_CHANNEL_DOORBELL, 1)
        else:
            gpu.read(layout.REG_MAGIC)
    finally:
        killing.join()
    gpu.read(layout.REG_MAGIC)
