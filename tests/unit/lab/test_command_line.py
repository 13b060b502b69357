"""The command line that QEMU gets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vdxgk_lab.command_line import IOMMUS, Iommu, MachineConfig, Plumbing, arguments
from vdxgk_lab.errors import Misconfigured

PLUMBING = Plumbing(Path("/k"), Path("/i"), Path("/run,dir/console.log"), "tcg")


def devices(config: MachineConfig) -> list[dict[str, Any]]:
    words = arguments(config, PLUMBING)
    return [json.loads(words[i + 1]) for i, word in enumerate(words) if word == "-device"]


def option(config: MachineConfig, name: str, plumbing: Plumbing = PLUMBING) -> str:
    words = arguments(config, plumbing)
    return words[words.index(name) + 1]


@pytest.mark.parametrize(
    ("iommu", "driver"),
    [("intel", "intel-iommu"), ("amd", "amd-iommu"), ("virtio", "virtio-iommu-pci")],
)
def test_the_iommu_stands_before_the_devices(iommu: Iommu, driver: str) -> None:
    drivers = [
        device["driver"] for device in devices(MachineConfig(iommu=iommu, devices=(Path("/s"),)))
    ]
    assert drivers[0] == driver
    assert "vfio-user-pci" in drivers[1:]


def test_no_iommu() -> None:
    config = MachineConfig(iommu="none")
    assert not any("iommu" in device["driver"] for device in devices(config))
    assert "iommu" not in option(config, "-append")


def test_defaults_announce_every_mapping() -> None:
    assert devices(MachineConfig(iommu="intel"))[0]["caching-mode"] is True
    assert devices(MachineConfig(iommu="amd"))[0]["dma-remap"] is True


def test_iommu_options_win() -> None:
    config = MachineConfig(iommu="intel", iommu_options={"caching-mode": False, "aw-bits": 39})
    assert devices(config)[0]["caching-mode"] is False
    assert devices(config)[0]["aw-bits"] == 39


def test_devices_have_slots_and_sockets_of_their_own() -> None:
    config = MachineConfig(devices=(Path("/a b,c"), Path("/d")), tablet=True)
    ours = [device for device in devices(config) if device["driver"] == "vfio-user-pci"]
    assert [device["socket"] for device in ours] == [
        {"type": "unix", "path": "/a b,c"},
        {"type": "unix", "path": "/d"},
    ]
    assert [device["addr"] for device in ours] == ["05.0", "06.0"]
    addresses = [device["addr"] for device in devices(config) if "addr" in device]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("share", [True, False])
def test_memory(share: bool) -> None:
    config = MachineConfig(memory=6 << 30, share_memory=share)
    backend = json.loads(option(config, "-object"))
    assert backend["qom-type"] == "memory-backend-memfd"
    assert (backend["size"], backend["share"]) == (6 << 30, share)
    assert f"memory-backend={backend['id']}" in option(config, "-machine")
    assert option(config, "-m") == f"{6 << 30}B"


def test_the_machine_starts_paused_and_never_reboots() -> None:
    words = arguments(MachineConfig(), PLUMBING)
    assert {"-S", "-no-reboot", "-nodefaults"} <= set(words)
    assert "panic=-1" in option(MachineConfig(), "-append").split()


@pytest.mark.parametrize("iommu", IOMMUS)
def test_kvm_splits_its_interrupt_controller_for_an_iommu(iommu: Iommu) -> None:
    config = MachineConfig(iommu=iommu)
    kvm = replace(PLUMBING, accelerator="kvm")
    split = "kernel-irqchip=split" in option(config, "-machine", kvm)
    assert split == (iommu != "none")
    assert "irqchip" not in option(config, "-machine")
    assert option(config, "-accel", kvm) == "kvm"


def test_only_emulation_goes_without_fast_string_instructions() -> None:
    kvm = replace(PLUMBING, accelerator="kvm")
    assert "erms=off" in option(MachineConfig(), "-cpu")
    assert "erms" not in option(MachineConfig(), "-cpu", kvm)


def test_commas_in_paths_are_doubled() -> None:
    words = arguments(MachineConfig(), PLUMBING)
    assert "file,id=console,path=/run,,dir/console.log" in words


def test_own_arguments_come_last() -> None:
    config = MachineConfig(qemu_args=("-device", "x"), kernel_args=("iommu.strict=0",))
    assert arguments(config, PLUMBING)[-2:] == ["-device", "x"]
    assert option(config, "-append").endswith("iommu.strict=1 iommu.strict=0")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"memory": 4096}, "128 MiB"),
        ({"memory": (1 << 30) + 1}, "whole pages"),
        ({"cpus": 0}, "CPUs"),
        ({"iommu": "smmu"}, "smmu"),
        ({"devices": (Path("/s"),) * 27}, "27 devices"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], word: str) -> None:
    with pytest.raises(Misconfigured, match=word):
        MachineConfig(**values)
