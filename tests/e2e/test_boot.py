"""Real guests on real QEMU: each IOMMU, commands, refusals, lost machines."""

import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vdxgk_lab import accelerator
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import IOMMUS, Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceLost, DeviceProcess
from vdxgk_lab.errors import GuestError, GuestTimeout, Misconfigured, VmLost
from vdxgk_lab.machine import Machine
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine
from vdxgk_lab.run_directory import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEVICE = "/sys/bus/pci/devices/0000:00:05.0"


@pytest.mark.parametrize("iommu", IOMMUS)
def test_a_guest_sees_the_device_behind_its_iommu(
    vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine, iommu: Iommu
) -> None:
    device = vdxgk_start_device()
    vm = vdxgk_start_machine(MachineConfig(iommu=iommu, devices=(device.socket,)))
    assert vm.guest.run(["cat", f"{DEVICE}/vendor"]).check().stdout == "0x1234\n"
    has_iommu = vm.guest.run(["ls", "/sys/class/iommu"]).check().stdout != ""
    assert has_iommu == (iommu != "none")
    assert vm.guest.run(["dxgkctl", "status"]).check().stdout
    assert "init:" not in vm.console
    assert vm.alive
    device.check()


def test_the_stub_is_the_tests_to_load(vdxgk_start_machine: StartMachine) -> None:
    vm = vdxgk_start_machine(MachineConfig(iommu="none", kernel_args=("vdxgk_load=no",)))
    assert not vm.guest.run(["test", "-e", "/sys/module/vdxgk"]).ok
    vm.guest.run(["insmod", "/lib/modules/vdxgk.ko"]).check()
    assert vm.guest.run(["test", "-e", "/sys/module/vdxgk"]).ok


def test_commands(vdxgk_start_machine: StartMachine) -> None:
    vm = vdxgk_start_machine(MachineConfig(iommu="none"))
    run = vm.guest.run

    echoed = run(["sh", "-c", "cat; echo complaint >&2; exit 3"], stdin=b"in\xff\n")
    assert (echoed.exit_status, echoed.stdout, echoed.stderr) == (3, "in�\n", "complaint\n")
    with pytest.raises(GuestError, match="status 3 in the guest"):
        echoed.check()

    assert run(["sh", "-c", "kill -SEGV $$"]).exit_status == 128 + signal.SIGSEGV
    # Its answer is longer than what the QMP library takes by default.
    big = run(["sh", "-c", "head -c 8000000 /dev/zero | tr '\\0' x"])
    assert big.stdout == "x" * 8_000_000

    with pytest.raises(GuestError, match="no-such-program"):
        run(["no-such-program"])
    with pytest.raises(GuestTimeout, match="sleep 1000"):
        run(["sleep", "1000"], timeout=0.2)
    assert "sleep 1000" not in run(["ps"]).check().stdout

    # None of that hurt the machine.
    assert run(["true"]).ok


def test_a_lost_machine_is_not_a_failed_command(vdxgk_start_machine: StartMachine) -> None:
    vm = vdxgk_start_machine(MachineConfig(iommu="none"))
    with pytest.raises(VmLost):
        vm.guest.run(["sh", "-c", "echo c >/proc/sysrq-trigger"])
    vm.wait(60)
    assert not vm.alive
    assert "Kernel panic" in vm.console


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (MachineConfig(iommu="intel", iommu_options={"caching-mode": False}), "caching-mode=on"),
        (MachineConfig(iommu="amd", iommu_options={"dma-remap": False}), "dma-remap=on"),
        (MachineConfig(share_memory=False), "share=on"),
    ],
    ids=["no caching mode", "no DMA remapping", "private memory"],
)
def test_what_would_go_wrong_later_is_refused_at_once(
    vdxgk_artifacts: Artifacts,
    vdxgk_run: RunDirectory,
    vdxgk_start_device: StartDevice,
    config: MachineConfig,
    hint: str,
) -> None:
    device = vdxgk_start_device()
    config = replace(config, devices=(device.socket,))
    with (
        pytest.raises(Misconfigured, match=hint),
        Machine(config, vdxgk_artifacts, vdxgk_run.path),
    ):
        pytest.fail("it started")
    device.check()


def test_an_iommu_that_the_kernel_does_not_drive(
    vdxgk_artifacts: Artifacts, vdxgk_run: RunDirectory
) -> None:
    without = replace(vdxgk_artifacts, virtio_iommu=False)
    with pytest.raises(Misconfigured, match="no driver for virtio-iommu"):
        Machine(MachineConfig(iommu="virtio"), without, vdxgk_run.path)


def test_qemu_refusing_its_command_line_is_told_in_its_words(
    vdxgk_artifacts: Artifacts, vdxgk_run: RunDirectory
) -> None:
    config = MachineConfig(qemu_args=("-device", "flux-capacitor"))
    with (
        pytest.raises(VmLost, match="flux-capacitor") as caught,
        Machine(config, vdxgk_artifacts, vdxgk_run.path),
    ):
        pytest.fail("it started")
    assert "QEMU ended with status 1" in caught.value.message


def test_no_server_at_the_socket(vdxgk_artifacts: Artifacts, vdxgk_run: RunDirectory) -> None:
    config = MachineConfig(devices=(vdxgk_run.path / "nobody.sock",))
    with (
        pytest.raises(VmLost, match=r"nobody\.sock"),
        Machine(config, vdxgk_artifacts, vdxgk_run.path),
    ):
        pytest.fail("it started")


def test_everything_is_saved_when_something_fails(
    vdxgk_artifacts: Artifacts, tmp_path: Path
) -> None:
    config = MachineConfig(iommu="none", kernel_args=("rdinit=/nothing", "init=/nothing"))
    with (
        pytest.raises(VmLost) as caught,
        RunDirectory("a test", tmp_path / "results") as run,
        Machine(config, vdxgk_artifacts, run.path),
    ):
        pytest.fail("it started")
    (kept,) = (tmp_path / "results").iterdir()
    assert caught.value.__notes__ == [f"Logs: {kept}"]
    assert "Kernel panic" in (kept / "vm-console.log").read_text()
    assert "-append" in (kept / "vm-command.sh").read_text()
    assert (kept / "vm-qemu.log").exists()
    assert not run.path.exists()


ORPHAN = """
import os, sys
from pathlib import Path
from vdxgk_lab import artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.machine import Machine
with Machine(MachineConfig(iommu="none"), artifacts.prepare(), Path(sys.argv[1])) as vm:
    print(vm.pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_qemu_dies_with_its_parent(tmp_path: Path, vdxgk_artifacts: Artifacts) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    # The kernel's signal may be on its way still: wait for the end itself.
    try:
        descriptor = os.pidfd_open(int(run.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 60)[0], "QEMU lives on"
    finally:
        os.close(descriptor)


def test_a_terminated_command_leaves_nothing(vdxgk_artifacts: Artifacts, tmp_path: Path) -> None:
    assert vdxgk_artifacts.initramfs.exists()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", "from vdxgk_lab.cli import main; main()", "boot", "--iommu=none"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as boot:
        assert boot.stdout
        for line in boot.stdout:
            if b"vdxgk guest:" in line:
                break
        boot.terminate()
    assert boot.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["results"]  # its logs


def test_a_server_that_does_not_start_says_why(vdxgk_run: RunDirectory) -> None:
    with (
        pytest.raises(DeviceLost, match="No such option"),
        DeviceProcess(vdxgk_run.path, ["--flux"]),
    ):
        pytest.fail("it started")


def test_the_probe_tells_what_runs(vdxgk_artifacts: Artifacts) -> None:
    qemu = vdxgk_artifacts.qemu
    assert accelerator.runs_probe(qemu.command, "tcg")
    usable = accelerator.why_not_kvm(qemu.command) == ""
    assert accelerator.choose("auto", qemu) == ("kvm" if usable else "tcg")
    assert accelerator.choose("tcg", qemu) == "tcg"
    if not usable:
        with pytest.raises(Misconfigured, match="No KVM"):
            accelerator.choose("kvm", qemu)
