"""A virtual machine with a guest in it, from Python.

::

    with RunDirectory("demo") as run, Machine(MachineConfig(), artifacts, run.path) as vm:
        print(vm.guest.run(["uname", "-r"]).check().stdout)
"""

from pathlib import Path
from typing import Literal

from vdxgk_lab import accelerator, preflight, timeouts
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import AGENT, MachineConfig, Plumbing, arguments
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.guest import Guest
from vdxgk_lab.qemu_process import QemuProcess


class Machine(QemuProcess):
    """A QEMU process with a guest in it.

    `qmp` talks to QEMU, `guest` runs commands in the guest. A machine that
    is gone raises VmLost wherever it is noticed.
    """

    def __init__(
        self, config: MachineConfig, artifacts: Artifacts, directory: Path, name: str = "vm"
    ) -> None:
        """Prepare; entering the context starts it, and waits until its guest answers.

        `directory` takes the logs: `<name>-console.log`, `<name>-qemu.log`,
        `<name>-command.sh`. Raises Misconfigured if KVM is insisted on and
        does not work, and for an IOMMU that the kernel does not drive;
        entering raises it for a machine that could not work.
        """
        if config.iommu == "virtio" and not artifacts.virtio_iommu:
            raise Misconfigured(
                f"Linux {artifacts.kernel_release} has no driver for virtio-iommu.",
                "Choose a later kernel, or another IOMMU.",
            )
        self.config = config
        self.accelerator: Literal["kvm", "tcg"] = accelerator.choose(
            config.accelerator, artifacts.qemu
        )
        scale = timeouts.scale(emulated=self.accelerator == "tcg")
        super().__init__(artifacts.qemu, directory, name, scale)
        self.console_log = directory / f"{name}-console.log"
        self._artifacts = artifacts
        self._terminal = config.console == "stdio"

    @property
    def console(self) -> str:
        """What the guest wrote to its console so far."""
        try:
            return self.console_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _arguments(self) -> list[str]:
        plumbing = Plumbing(
            kernel=self._artifacts.kernel_image,
            initramfs=self._artifacts.initramfs,
            console_log=self.console_log,
            accelerator=self.accelerator,
        )
        return arguments(self.config, plumbing)

    def _prepare(self) -> None:
        self._agent = self._peer("the guest")
        self.guest = Guest(self._agent, self.time_scale)
        self._agent_channel = self._channel(AGENT)

    def _connect(self) -> None:
        preflight.check(self.qmp)
        self._agent.connect(self._agent_channel, handshake=False, timeout=self._start_seconds)
        self.qmp.execute("cont")
        if self.config.console == "file":
            self.guest.wait_ready()

    def _last_words(self) -> list[str]:
        return [self.words, self.console]
