"""A virtual machine, from Python.

::

    with RunDirectory("demo") as run, Machine(MachineConfig(), artifacts, run.path) as vm:
        print(vm.guest.run(["uname", "-r"]).check().stdout)
"""

import contextlib
import os
import shlex
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from vdxgk_lab import accelerator, preflight, processes, timeouts
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import MachineConfig, Plumbing, arguments
from vdxgk_lab.errors import Misconfigured, VmError, VmLost
from vdxgk_lab.guest import Guest
from vdxgk_lab.qmp import EventLoopThread, QmpPeer

_START_SECONDS = 30
_TAIL = 1500


class Machine:
    """A QEMU process with a guest in it; a context manager, used from one thread.

    `qmp` talks to QEMU, `guest` runs commands in the guest. A machine that
    is gone raises VmLost wherever it is noticed.
    """

    def __init__(
        self, config: MachineConfig, artifacts: Artifacts, directory: Path, name: str = "vm"
    ) -> None:
        """Prepare; entering the context starts it.

        `directory` takes the logs: `<name>-console.log`, `<name>-qemu.log`,
        `<name>-command.sh`. Raises Misconfigured if KVM is insisted on and
        does not work, and for an IOMMU that the kernel does not drive.
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
        self.time_scale = timeouts.scale(emulated=self.accelerator == "tcg")
        self.console_log = directory / f"{name}-console.log"
        self._qemu_log = directory / f"{name}-qemu.log"
        self._script = directory / f"{name}-command.sh"
        self._artifacts = artifacts
        self._name = name
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the machine and wait until its guest answers.

        Raises Misconfigured if it could not work, VmLost if it ends or
        hangs before that.
        """
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the machine, whatever it is doing."""
        self._cleanup.close()

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process number."""
        assert self._process is not None
        return self._process.pid

    @property
    def console(self) -> str:
        """What the guest wrote to its console so far."""
        try:
            return self.console_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for QEMU to end by itself; answers its exit status.

        Raises VmError if it still runs after `timeout` (scaled) seconds.
        """
        assert self._process is not None
        limit = None if timeout is None else timeout * self.time_scale
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"the machine still runs after {limit:.0f} s.") from error

    def _start(self, stack: contextlib.ExitStack) -> None:
        loop = EventLoopThread()
        stack.callback(loop.close)
        self.qmp = QmpPeer(loop, "QEMU")
        stack.callback(self.qmp.close)
        agent = QmpPeer(loop, "the guest")
        stack.callback(agent.close)
        self.guest = Guest(agent, self.time_scale)
        # Pairs rather than paths: nobody else can connect, and the end of
        # QEMU is the end of the connection.
        qmp_ours, qmp_theirs = socket.socketpair()
        agent_ours, agent_theirs = socket.socketpair()
        stack.callback(qmp_ours.close)
        stack.callback(agent_ours.close)
        with qmp_theirs, agent_theirs:
            self._process = self._spawn(qmp_theirs.fileno(), agent_theirs.fileno())
        stack.callback(processes.end, self._process)
        try:
            self.qmp.connect(qmp_ours, handshake=True, timeout=_START_SECONDS * self.time_scale)
            preflight.check(self.qmp)
            agent.connect(agent_ours, handshake=False, timeout=_START_SECONDS)
            self.qmp.execute("cont")
            if self.config.console == "file":
                self.guest.wait_ready()
        except VmLost as error:
            raise self._explained(error) from error

    def _spawn(self, qmp_fd: int, agent_fd: int) -> subprocess.Popen[bytes]:
        qemu = self._artifacts.qemu
        plumbing = Plumbing(
            kernel=self._artifacts.kernel_image,
            initramfs=self._artifacts.initramfs,
            console_log=self.console_log,
            accelerator=self.accelerator,
            qmp_fd=qmp_fd,
            agent_fd=agent_fd,
        )
        command = [*qemu.command, *arguments(self.config, plumbing)]
        variables = [f"{name}={value}" for name, value in qemu.environment.items()]
        self._script.write_text(shlex.join(["env", *variables, *command]) + "\n")
        with self._qemu_log.open("wb") as log:
            return subprocess.Popen(
                processes.bound_to_parent(command),
                env={**os.environ, **qemu.environment},
                stdin=None if self.config.console == "stdio" else subprocess.DEVNULL,
                stdout=None if self.config.console == "stdio" else log,
                stderr=log,
                pass_fds=(qmp_fd, agent_fd),
            )

    def _explained(self, error: VmLost) -> VmLost:
        """The error with what QEMU and the guest said last."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # a lost connection comes shortly before the exit status
        status = self._process.poll()
        what = error.message if status is None else f"QEMU ended with status {status}."
        words = [self._qemu_log.read_text(errors="replace"), self.console]
        return VmLost(what, "\n".join(text.strip()[-_TAIL:] for text in words if text.strip()))
