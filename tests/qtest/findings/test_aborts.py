"""QEMU ends."""

from __future__ import annotations

import signal
import socket
import threading
import time
from dataclasses import replace

import pytest

from tests.qtest.findings.finding import LOGICAL, Defect, finding
from tests.qtest.lane import (
    ADAPTER_SLOT,
    BUFFER,
    KINDS,
    PLATFORMS,
    WIDE,
    Kind,
    open_lane,
)
from tests.unit.vdxgk.raw_guest import serving
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Frames
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.run_directory import RunDirectory

MACHINES = 20
SETTLING = 0.2
"""Seconds in which QEMU has freed a device that is gone (by RCU, in a thread of its own)."""
PCI_HOT_PLUG = 0xCC0
"""I/O ports of q35's ACPI PCI hot plug (QEMU's docs/specs/acpi_pci_hotplug.rst)."""


@finding
@pytest.mark.parametrize("option", ["caching-mode", "snoop-control"])
def test_intel_abort_when_the_guest_enables_translation(
    qemu: QemuBinary, vdxgk_run: RunDirectory, option: str
) -> None:
    properties = {"caching-mode": option != "caching-mode", "snoop-control": True}
    if option == "caching-mode":
        del properties["snoop-control"]
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties, mortal=True) as lane:
        try:
            lane.iommu.enable()
        except VmLost as lost:
            assert lane.machine.exit_status() == -signal.SIGABRT
            assert "vfio: DMA mapping failed, unable to continue" in lane.machine.words
            raise Defect(lane.machine.words) from lost


@finding
def test_amd_abort_on_invalidation_of_a_cleared_directory(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("amd", qemu, vdxgk_run.path, mortal=True) as lane:
        lane.iommu.enable()
        for index in range(4):
            lane.iommu.map(LOGICAL + index * PAGE, BUFFER, PAGE)
        try:
            lane.iommu.unmap(LOGICAL, LARGE, leaf=LARGE)
        except VmLost as lost:
            assert lane.machine.exit_status() == -signal.SIGABRT
            assert "amdvi_notify_iommu: Assertion" in lane.machine.words
            raise Defect(lane.machine.words) from lost


@finding
def test_abort_when_a_server_goes_with_a_request_unread(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    path = str(vdxgk_run.path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def go_at_once() -> None:
            client, _ = listener.accept()
            with client:
                assert client.recv(1)  # and no more: Linux then resets the connection

        server = threading.Thread(target=go_at_once)
        server.start()
        machine = QtestMachine(QtestConfig((vfio_user(path, ADAPTER_SLOT),)), qemu, vdxgk_run.path)
        with pytest.raises(VmLost), machine:
            pytest.fail("it started")
        server.join()
    assert machine.exit_status() in (1, -signal.SIGABRT)
    if machine.exit_status() != 1:
        assert "error_setv: Assertion" in machine.words
        raise Defect(machine.words)


@finding
@pytest.mark.parametrize("kind", KINDS)
def test_abort_on_a_reset_once_the_server_has_gone(
    qemu: QemuBinary, vdxgk_run: RunDirectory, kind: Kind
) -> None:
    platform = PLATFORMS[kind]
    with DeviceProcess(vdxgk_run.path) as device:
        config = QtestConfig((platform.device, vfio_user(str(device.socket), ADAPTER_SLOT)))
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            qtest, window = machine.qtest, MmioWindow()
            BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT)).start(window)
            iommu = platform.driver(qtest, Frames(qtest), window)
            iommu.enable()
            iommu.map(LOGICAL, BUFFER, PAGE)
            assert device.stop() == 0
            try:
                machine.reset()
            except VmLost as lost:
                assert machine.exit_status() == -signal.SIGABRT
                assert "vfio: DMA mapping failed, unable to continue" in machine.words
                raise Defect(machine.words) from lost


@finding
def test_abort_when_a_device_with_msix_is_unplugged(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with serving(vdxgk_run.path, WIDE) as (_, path):
        died, words = unplugged(qemu, vdxgk_run, path, MACHINES)
        if died:
            raise Defect(words)


def test_a_device_with_msi_is_unplugged(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    """What a user does until then: `vdxgk serve --msi`."""
    with serving(vdxgk_run.path, replace(WIDE, msi=True)) as (_, path):
        assert unplugged(qemu, vdxgk_run, path, MACHINES) == (False, "")


def unplugged(qemu: QemuBinary, run: RunDirectory, path: str, machines: int) -> tuple[bool, str]:
    """Whether one of several machines aborts when the guest ejects the adapter, and its words."""
    port = {"driver": "pcie-root-port", "id": "rp", "chassis": 1, "addr": "6"}
    adapter = {**vfio_user(path, 0), "bus": "rp", "id": "gpu"}
    config = QtestConfig((port, adapter), size=256 << 20)
    for _ in range(machines):
        with QtestMachine(config, qemu, run.path) as machine:
            try:
                machine.reset()  # which numbers the slots
                machine.qmp.execute("device_del", {"id": "gpu"})
                # What the guest's ACPI code does: select the bus, eject the slot.
                machine.qtest.port_out(PCI_HOT_PLUG + 0x10, 0, 4)
                machine.qtest.port_out(PCI_HOT_PLUG + 8, 1, 4)
                left = machine.qmp.execute("qom-list", {"path": "/machine/peripheral"})
                assert "gpu" not in [item["name"] for item in left]
                settle(machine)
            except VmLost:
                assert machine.exit_status() == -signal.SIGABRT
                assert "memory_region_del_subregion: Assertion" in machine.words
                return True, machine.words
    return False, ""


def settle(machine: QtestMachine) -> None:
    """Give QEMU's RCU thread time.  Raises VmLost where QEMU ends in it."""
    time.sleep(SETTLING)
    machine.qmp.execute("query-status")


@finding
def test_abort_on_a_reset_while_an_unplug_waits_for_the_guest(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    port = {"driver": "pcie-root-port", "id": "rp", "chassis": 1, "addr": "6"}
    with serving(vdxgk_run.path, WIDE) as (_, path):
        adapter = {**vfio_user(path, 0), "bus": "rp", "id": "gpu"}
        config = QtestConfig((port, adapter), size=256 << 20)
        for _ in range(MACHINES):
            with QtestMachine(config, qemu, vdxgk_run.path) as machine:
                try:
                    machine.qmp.execute("device_del", {"id": "gpu"})
                    for _ in range(3):
                        machine.reset()
                    settle(machine)
                except VmLost as lost:
                    assert machine.exit_status() == -signal.SIGABRT
                    assert "Assertion `" in machine.words
                    raise Defect(machine.words) from lost
