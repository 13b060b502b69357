"""A QEMU whose processors stand still, driven by its test protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vdxgk_lab import timeouts
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qemu_process import QemuProcess
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


class QtestMachine(QemuProcess):
    """A QEMU process whose processors Python plays: `qtest`."""

    _start_seconds = _ANSWER_SECONDS

    def __init__(self, config: QtestConfig, qemu: QemuBinary, directory: Path) -> None:
        """Prepare; entering the context starts it.

        `directory` takes `qtest-qemu.log` and `qtest-command.sh`.
        """
        super().__init__(qemu, directory, "qtest", timeouts.scale(emulated=True))
        self._config = config

    def reset(self) -> None:
        """Reset the machine, as its reset button does, and wait for the end of it.

        Devices and IOMMUs forget; guest memory stays.
        """
        self.qmp.execute("system_reset")
        # The reset is carried out by the main loop, which serves the monitor too.
        self.qmp.execute("query-status")

    def requested_vectors(self) -> set[int]:
        """The interrupt vectors that wait in the local APIC of processor 0, which takes none."""
        answer = self.qmp.execute("human-monitor-command", {"command-line": "info lapic"})
        (line,) = re.findall(r"^IRR\s+(.*)$", str(answer), re.MULTILINE)
        return {int(word) for word in re.findall(r"\d+", line)}

    def exit_status(self) -> int:
        """Wait for QEMU to end by itself; negative: the signal that ended it.

        Raises VmError if it goes on.
        """
        return self.wait(_EXIT_SECONDS)

    def _prepare(self) -> None:
        self.qtest = QtestClient(self._channel("qtest"), _ANSWER_SECONDS * self.time_scale)
        self._stack.callback(self.qtest.close)

    def _arguments(self) -> list[str]:
        memory = {**self._config.memory, "id": "ram", "size": self._config.size}
        words = [
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            *("-machine", "q35,memory-backend=ram,hpet=off", "-m", f"{self._config.size}B"),
            *("-accel", "qtest", "-qtest", "chardev:qtest", "-qtest-log", "/dev/null"),
            *("-object", json.dumps(memory)),
        ]
        for properties in self._config.devices:
            words += ["-device", json.dumps(properties)]
        return words
