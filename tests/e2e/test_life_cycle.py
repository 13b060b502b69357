"""Guests that reboot, crash, unload and unplug while the device works: nothing is left over.

`--life-cycles=100` is the long version; docs/testing.md has its figures.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.footprint import RESIDENT_SLACK, Footprint, resident
from tests.waiting import wait_for
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import GuestError
from vdxgk_lab.guest import Guest
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import MIB, ObjectCase
from vdxgk_lab.proof.objects import exercise, tear_down
from vdxgk_lab.proof.run import announced_mappings, device_status
from vdxgk_lab.proof.stub import Stub
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(4 * 3600)]

OBJECT = ObjectCase("MDL", "mdl", 256 << 10)
MEMORY = 512 * MIB
HOT_PLUG_PORT = {
    # Room for the adapter's BARs, which firmware does not see.
    **{"driver": "pcie-root-port", "id": "behind", "chassis": 9, "addr": "09.0"},
    **{"mem-reserve": 16 * MIB, "pref64-reserve": 64 * MIB},
}
DRIVER = "/sys/bus/pci/drivers/vdxgk"


@dataclass
class Server:
    """The adapter's server, and what it says of itself."""

    device: DeviceProcess
    status: Callable[[], dict[str, Any]]

    def footprint(self) -> Footprint:
        """Wait until the last client's things have gone, and look."""
        wait_for(lambda: not self.status()["connected"], "the client's end is noticed")
        wait_for(lambda: not self.status()["guest_ram"]["bytes"], "guest memory is let go")
        assert self.status()["dma_mappings"] == 0
        return Footprint.of(self.device.pid)

    def works(self, guest: Guest, number: int = 0) -> None:
        """Both sides write and read an object, by both paths; then it goes."""
        stub = Stub(guest)
        made = exercise(stub, announced_mappings(self.status), OBJECT, number % 256)
        assert made.evidence.ok, made.evidence.checklist.failures
        assert stub.device_crc32(made.logical, OBJECT.size, messages=True) == made.crc
        tear_down(stub, made)
        assert self.status()["objects"] == []


@pytest.fixture
def cycles(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("--life-cycles")
    return number


@pytest.fixture
def server(vdxgk_start_device: StartDevice) -> Iterator[Server]:
    device = vdxgk_start_device()
    yield Server(device, device_status(device.control))
    device.check()


@pytest.fixture(autouse=True)
def _no_garbage() -> None:
    gc.collect()


def work_without_pause(server: Server, guest: Guest) -> None:
    """Leave the engine at work on both paths, and come back when it is."""
    stub = Stub(guest)
    target = stub.create(ObjectCase("MDL", "mdl", 16 * MIB))
    logical = stub.allocate_adl(target.adapter_object, 16 * MIB, prefer_contiguous=True).logical
    for flag in ("", "--messages"):
        command = f"dxgkctl dma fill --destination {logical:#x} --size {16 * MIB} {flag}"
        guest.run(["sh", "-c", f"while {command}; do :; done >/dev/null 2>&1 &"]).check()

    def done() -> int:
        number: int = stub.call("status")["engine_interrupts"]
        return number

    before = done()
    wait_for(lambda: done() > before + 2, "the engine works")


def machine_with(*devices: Path, loud: bool = False) -> MachineConfig:
    return MachineConfig(
        memory=MEMORY,
        devices=devices,
        kernel_args=("vdxgk_load=no", *(("loglevel=7",) if loud else ())),
    )


def plug(machine: Machine, device: DeviceProcess) -> None:
    """Plug the adapter in while the guest runs, and wait until the guest has found it."""
    properties = {
        **{"driver": "vfio-user-pci", "id": "gpu", "bus": HOT_PLUG_PORT["id"]},
        **{"socket": {"type": "unix", "path": str(device.socket)}},
    }
    machine.qmp.execute("device_add", properties)
    find = ["sh", "-c", "grep -q 0x1111 /sys/bus/pci/devices/*/device"]
    wait_for(lambda: machine.guest.run(find).ok, "the guest sees the adapter")


def unplug(machine: Machine) -> None:
    """Ask the guest for the adapter, and wait until QEMU has let go of it."""
    machine.qmp.execute("device_del", {"id": "gpu"})

    def gone() -> bool:
        listed = machine.qmp.execute("qom-list", {"path": "/machine/peripheral"})
        return all(item["name"] != "gpu" for item in listed)

    wait_for(gone, "the adapter is unplugged")


def wait_for_reboot(machine: Machine, boots: int) -> None:
    """The console tells when the kernel has begun anew; the old one's agent must not answer."""
    wait_for(lambda: machine.console.count("Linux version") > boots, "the guest boots again")
    machine.guest.wait_ready()


def test_reboots_and_resets_in_mid_transfer(
    server: Server, vdxgk_start_machine: StartMachine, cycles: int
) -> None:
    vm = vdxgk_start_machine(machine_with(server.device.socket, loud=True))
    vm.qmp.execute("set-action", {"reboot": "reset"})
    held = []
    for number in range(cycles):
        assert scenarios.load_stub(vm.guest, "logical"), vm.console[-2000:]
        server.works(vm.guest, number)
        boots = vm.console.count("Linux version")
        if number % 2:
            # Its agent may go before it has told how the command ended.
            with contextlib.suppress(GuestError):
                vm.guest.run(["sh", "-c", "(sleep 1; reboot -f) >/dev/null 2>&1 &"])
        else:
            work_without_pause(server, vm.guest)
            vm.qmp.execute("system_reset")
        wait_for_reboot(vm, boots)
        state = server.status()
        assert (state["objects"], state["adapters"], state["donated_bytes"]) == ([], [], 0)
        held.append(resident(server.device.pid))
    assert server.status()["connections"] == 1
    # Python takes memory by the MiB, some more in each of the first rounds.
    most = max(held[: (cycles + 1) // 2])
    assert held[-1] <= most + RESIDENT_SLACK, " ".join(map(str, held))
    print(f"{cycles} reboots: {held[0]}, at most {most}, then {held[-1]} KiB without a file")
    assert scenarios.load_stub(vm.guest, "logical")
    server.works(vm.guest)


def test_the_driver_goes_in_mid_transfer_and_comes_back(
    server: Server, vdxgk_start_machine: StartMachine, cycles: int
) -> None:
    vm = vdxgk_start_machine(machine_with(server.device.socket))
    assert scenarios.load_stub(vm.guest, "logical")
    for number in range(cycles):
        server.works(vm.guest, number)
        work_without_pause(server, vm.guest)
        vm.guest.run(["sh", "-c", f"echo 0000:00:05.0 > {DRIVER}/unbind"], timeout=120).check()
        state = server.status()
        assert (state["objects"], state["donated_bytes"]) == ([], 0)
        vm.guest.run(["sh", "-c", f"echo 0000:00:05.0 > {DRIVER}/bind"], timeout=120).check()
        wait_for(lambda: vm.guest.run(["test", "-c", scenarios.NODE]).ok, "the driver is back")
    server.works(vm.guest)


def test_unplugged_in_mid_transfer_and_plugged_in_again(
    vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine, cycles: int
) -> None:
    """With MSI: of MSI-X QEMU 11.1 does not survive the unplug (docs/qemu-findings.md)."""
    device = vdxgk_start_device("--msi")
    server = Server(device, device_status(device.control))
    vm = vdxgk_start_machine(
        MachineConfig(
            memory=MEMORY,
            kernel_args=("vdxgk_load=no",),
            qemu_args=("-device", json.dumps(HOT_PLUG_PORT)),
        )
    )
    footprints = []
    for number in range(cycles + 1):
        plug(vm, device)
        assert scenarios.load_stub(vm.guest, "logical"), vm.console[-2000:]
        server.works(vm.guest, number)
        if number % 2:
            work_without_pause(server, vm.guest)
        unplug(vm)
        # The commands that were under way have ended: nobody holds the module.
        wait_for(lambda: scenarios.unload_stub(vm.guest), "the stub goes")
        footprints.append(server.footprint())
        assert (server.status()["objects"], server.status()["donated_bytes"]) == ([], 0)
    assert server.status()["connections"] == cycles + 1
    assert not footprints[-1].excess(footprints[0]), footprints
    assert "hot plug" in device.log.read_text()
    print(f"{len(footprints)} unplugged: {footprints[0]} to {footprints[-1]}")
    device.check()


def test_a_machine_killed_in_mid_transfer(
    server: Server, vdxgk_start_machine: StartMachine, cycles: int
) -> None:
    footprints = []
    for number in range(min(cycles, KILLS) + 1):
        vm = vdxgk_start_machine(machine_with(server.device.socket), name=f"vm{number}")
        assert scenarios.load_stub(vm.guest, "logical")
        server.works(vm.guest, number)
        work_without_pause(server, vm.guest)
        vm.kill()
        footprints.append(server.footprint())
        assert server.status()["objects"] == []
    assert not footprints[-1].excess(footprints[0]), footprints
    print(f"{len(footprints)} killed: {footprints[0]} to {footprints[-1]}")


KILLS = 20
"""Each costs a boot, and has nothing that a hundredth would add."""
