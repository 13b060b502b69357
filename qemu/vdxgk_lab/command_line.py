"""What a machine is, and the QEMU command line that makes it.

Rules that the client imposes: the IOMMU stands before the devices behind it;
guest memory is a shared memfd, or the device sees none of it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.initramfs import AGENT_PORT

Iommu = Literal["intel", "amd", "virtio", "none"]
Accelerator = Literal["auto", "kvm", "tcg"]
Console = Literal["file", "stdio"]

IOMMUS: tuple[Iommu, ...] = get_args(Iommu)
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)

AGENT = "agent"
"""The chardev that leads to the guest's agent."""

GIB = 1 << 30
_PAGE = 4096
_FIRST_DEVICE_SLOT = 5
_LAST_DEVICE_SLOT = 0x1E  # 0x1f is the chipset's

_IOMMU_DEVICES: dict[Iommu, dict[str, object]] = {
    "intel": {"driver": "intel-iommu", "intremap": "on", "caching-mode": True},
    "amd": {"driver": "amd-iommu", "intremap": "on", "dma-remap": True},
    "virtio": {"driver": "virtio-iommu-pci", "addr": "04.0"},
}
# Strict invalidation: an unmapped page is out of reach when the unmap returns.
_KERNEL_ARGS: dict[Iommu, tuple[str, ...]] = {
    "intel": ("intel_iommu=on", "iommu.passthrough=0", "iommu.strict=1"),
    "amd": ("iommu.passthrough=0", "iommu.strict=1"),
    "virtio": ("iommu.passthrough=0", "iommu.strict=1"),
    "none": (),
}


@dataclass(frozen=True)
class MachineConfig:
    """A machine: a q35 PC with an emulated IOMMU and the devices behind it.

    Raises Misconfigured for values that no machine can have.
    """

    memory: int = 1 * GIB  # bytes, page multiple
    cpus: int = 1
    iommu: Iommu = "intel"
    iommu_options: Mapping[str, object] = field(default_factory=dict)  # properties of QEMU's device
    accelerator: Accelerator = "auto"
    share_memory: bool = True  # off only to see it refused
    devices: tuple[Path, ...] = ()  # sockets of vfio-user servers
    tablet: bool = False  # a pointer that takes positions; a PC's keyboard is always there
    kernel_args: tuple[str, ...] = ()
    qemu_args: tuple[str, ...] = ()
    console: Console = "file"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.memory < 128 << 20 or self.memory % _PAGE:
            raise Misconfigured(
                f"Guest memory of {self.memory} bytes: give at least 128 MiB, in whole pages."
            )
        if self.cpus < 1:
            raise Misconfigured(f"A machine with {self.cpus} CPUs: give at least 1.")
        if self.iommu not in IOMMUS:
            raise Misconfigured(
                f"There is no IOMMU called {self.iommu}.", f"Choose one of {', '.join(IOMMUS)}."
            )
        if len(self.devices) > _LAST_DEVICE_SLOT - _FIRST_DEVICE_SLOT + 1:
            raise Misconfigured(f"{len(self.devices)} devices do not fit on one PCI bus.")

    def with_devices(self, *sockets: Path) -> "MachineConfig":
        """The same machine with these vfio-user devices besides; the first is at 05.0."""
        return replace(self, devices=(*self.devices, *sockets))


@dataclass(frozen=True)
class Plumbing:
    """What a command line needs to know of this host and this start."""

    kernel: Path
    initramfs: Path
    console_log: Path
    accelerator: Literal["kvm", "tcg"]


def arguments(config: MachineConfig, plumbing: Plumbing) -> list[str]:
    """The arguments for a machine that starts paused; the chardev :data:`AGENT` is there."""
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot", "-S"),
        *("-display", "none", "-vga", "none"),
        *_platform(config, plumbing),
        *_kernel(config, plumbing),
        *_console(config, plumbing),
        *_iommu(config),
        *_agent(),
        *_tablet(config),
        *_devices(config),
        *config.qemu_args,
    ]


# A fifth level of page tables would only slow emulation down.
_CPU = "max,la57=off"
# TCG emulates `rep movsb` byte by byte; a kernel without it copies three times as fast.
_WORD_BY_WORD = ",erms=off,fsrm=off,fsrs=off"


def _platform(config: MachineConfig, plumbing: Plumbing) -> list[str]:
    machine = "q35,memory-backend=ram,vmport=off,hpet=off"
    if plumbing.accelerator == "kvm" and config.iommu != "none":
        machine += ",kernel-irqchip=split"  # the IOMMU remaps interrupts
    return [
        *("-machine", machine),
        *("-accel", plumbing.accelerator),
        *("-cpu", _CPU + (_WORD_BY_WORD if plumbing.accelerator == "tcg" else "")),
        *("-smp", str(config.cpus)),
        *("-m", f"{config.memory}B"),
        "-object",
        _json(
            {
                **{"qom-type": "memory-backend-memfd", "id": "ram"},
                **{"size": config.memory, "share": config.share_memory},
            }
        ),
    ]


def _kernel(config: MachineConfig, plumbing: Plumbing) -> list[str]:
    words = (
        # A panic ends the machine: -no-reboot turns its restart into an exit.
        *("console=ttyS0", "panic=-1", "loglevel=5", "mitigations=off"),
        # A busy host stops emulated clocks now and then; the guest need not wonder,
        # and must not panic because a timer did not tick while it looked.
        *("tsc=reliable", "no_timer_check"),
        *_KERNEL_ARGS[config.iommu],
        *config.kernel_args,
    )
    return [
        *("-kernel", str(plumbing.kernel)),
        *("-initrd", str(plumbing.initramfs)),
        *("-append", " ".join(words)),
    ]


def _console(config: MachineConfig, plumbing: Plumbing) -> list[str]:
    log = str(plumbing.console_log).replace(",", ",,")
    chardev = f"file,id=console,path={log}"
    if config.console == "stdio":
        # Ctrl-C belongs to the guest; Ctrl-A X ends QEMU.
        chardev = f"stdio,id=console,signal=off,mux=on,logfile={log}"
    return ["-chardev", chardev, "-serial", "chardev:console"]


def _iommu(config: MachineConfig) -> list[str]:
    if config.iommu == "none":
        return []
    properties = {**_IOMMU_DEVICES[config.iommu], "id": "iommu", **config.iommu_options}
    return ["-device", _json(properties)]


def _agent() -> list[str]:
    port = {"driver": "virtserialport", "chardev": AGENT, "name": AGENT_PORT}
    return [
        *("-device", _json({"driver": "virtio-serial-pci", "addr": "03.0"})),
        *("-device", _json(port)),
    ]


def _tablet(config: MachineConfig) -> list[str]:
    if not config.tablet:
        return []
    return ["-device", _json({"driver": "virtio-tablet-pci", "addr": "02.0"})]


def _devices(config: MachineConfig) -> list[str]:
    words = []
    for slot, socket in enumerate(config.devices, _FIRST_DEVICE_SLOT):
        properties = {
            **{"driver": "vfio-user-pci", "id": f"vdxgk{slot - _FIRST_DEVICE_SLOT}"},
            **{"socket": {"type": "unix", "path": str(socket)}, "addr": f"{slot:02x}.0"},
        }
        words += ["-device", _json(properties)]
    return words


def _json(properties: Mapping[str, object]) -> str:
    return json.dumps(properties)
