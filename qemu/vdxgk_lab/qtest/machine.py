"""A QEMU whose processors stand still, driven by its test protocol."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from vdxgk_lab import processes, timeouts
from vdxgk_lab.errors import VmError, VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qmp import EventLoopThread, QmpPeer
from vdxgk_lab.qtest.client import QtestClient

GIB = 1 << 30
LOW_MEMORY = 2 * GIB
"""Where q35 ends guest RAM below 4 GiB, for machines of 2.75 GiB and more."""
HIGH_MEMORY = 4 * GIB
"""Where the rest of it begins."""
_ANSWER_SECONDS = 15
_EXIT_SECONDS = 30
_SERVER_MILLISECONDS = 60_000  # QEMU's 5 s are too short on a busy host

Properties = Mapping[str, object]

SHARED_MEMORY: Properties = {"qom-type": "memory-backend-memfd", "share": True}


@dataclass(frozen=True)
class QtestConfig:
    """A q35 machine: 2 GiB of RAM from 0 and 2 GiB from 4 GiB, nothing else.

    `devices` are the properties of QEMU devices, in order: an IOMMU stands
    before what is behind it.  `memory` is the backend of guest RAM.
    """

    devices: Sequence[Properties] = ()
    memory: Properties = field(default_factory=lambda: SHARED_MEMORY)
    size: int = 4 * GIB


def vfio_user(socket_path: str, slot: int, **properties: object) -> Properties:
    """The properties of a vfio-user device on bus 0."""
    where = {"socket": {"type": "unix", "path": socket_path}, "addr": f"{slot:02x}.0"}
    patience = {"x-msg-timeout": _SERVER_MILLISECONDS}
    return {"driver": "vfio-user-pci", **where, **patience, **properties}


class QtestMachine:
    """A QEMU process; a context manager, used from one thread.

    `qtest` is the processor's part, `qmp` the monitor.
    """

    def __init__(self, config: QtestConfig, qemu: QemuBinary, directory: Path) -> None:
        """Prepare; entering the context starts it.

        `directory` takes `qtest-qemu.log` and `qtest-command.sh`.
        """
        self._config = config
        self._qemu = qemu
        self._log = directory / "qtest-qemu.log"
        self._script = directory / "qtest-command.sh"
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._scale = timeouts.scale(emulated=True)

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.  Raises VmLost with QEMU's last words."""
        with contextlib.ExitStack() as stack:
            loop = EventLoopThread()
            stack.callback(loop.close)
            self.qmp = QmpPeer(loop, "QEMU")
            stack.callback(self.qmp.close)
            qmp_ours, qmp_theirs = socket.socketpair()
            stack.callback(qmp_ours.close)
            ours, theirs = socket.socketpair()
            self.qtest = QtestClient(ours, _ANSWER_SECONDS * self._scale)
            stack.callback(self.qtest.close)
            with qmp_theirs, theirs:
                self._process = self._spawn(qmp_theirs.fileno(), theirs.fileno())
            stack.callback(processes.end, self._process)
            try:
                self.qmp.connect(qmp_ours, handshake=True, timeout=_ANSWER_SECONDS * self._scale)
            except VmLost as error:
                raise VmLost(error.message, self.words) from error
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self._cleanup.close()

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def words(self) -> str:
        """What QEMU wrote to its standard error."""
        return self._log.read_text(errors="replace")

    def reset(self) -> None:
        """Reset the machine, as its reset button does, and wait for the end of it.

        Devices and IOMMUs forget; guest memory stays.
        """
        self.qmp.execute("system_reset")
        # The reset is carried out by the main loop, which serves the monitor too.
        self.qmp.execute("query-status")

    def kill(self) -> None:
        """End QEMU at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def exit_status(self) -> int:
        """Wait for QEMU to end by itself; negative: the signal that ended it.

        Raises VmError if it goes on.
        """
        assert self._process is not None
        try:
            return self._process.wait(_EXIT_SECONDS * self._scale)
        except subprocess.TimeoutExpired as error:
            raise VmError("QEMU goes on.") from error

    def _spawn(self, qmp: int, qtest: int) -> subprocess.Popen[bytes]:
        memory = {**self._config.memory, "id": "ram", "size": self._config.size}
        words = [
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            *("-machine", "q35,memory-backend=ram,hpet=off", "-m", f"{self._config.size}B"),
            *("-accel", "qtest", "-qtest", "chardev:qtest", "-qtest-log", "/dev/null"),
            *("-chardev", f"socket,id=qtest,fd={qtest}"),
            *("-chardev", f"socket,id=qmp,fd={qmp}", "-qmp", "chardev:qmp"),
            *("-object", json.dumps(memory)),
        ]
        for properties in self._config.devices:
            words += ["-device", json.dumps(properties)]
        command = [*self._qemu.command, *words]
        variables = [f"{name}={value}" for name, value in self._qemu.environment.items()]
        self._script.write_text(shlex.join(["env", *variables, *command]) + "\n")
        with self._log.open("wb") as log:
            return subprocess.Popen(
                processes.bound_to_parent(command),
                env={**os.environ, **self._qemu.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(qmp, qtest),
            )
