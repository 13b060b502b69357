"""Boots a guest whose device records its mappings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vdxgk.control import ask
from vdxgk_lab import firmware
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine


def record(
    config: MachineConfig,
    artifacts: Artifacts,
    directory: Path,
    *,
    serve_options: Sequence[str] = (),
    commands: Sequence[str] = (),
    seconds: float = 0,
) -> Path:
    """Boot, run shell commands in the guest, wait `seconds`, end; answers the log of it all.

    The log has a mark where the guest was up, before each command, and where
    the machine was ended.  `directory` takes it and the logs of the run.
    Raises VmError, GuestError if a command fails.
    """
    log = directory / "guest.audit"
    options = [*firmware.rom_options(artifacts.qemu), "--audit", str(log), *serve_options]
    with DeviceProcess(directory, options) as device:

        def mark(text: str) -> None:
            ask(str(device.control), "audit-mark", text=text)

        config = replace(config, devices=(device.socket, *config.devices))
        with Machine(config, artifacts, directory) as machine:
            mark("guest is up")
            for command in commands:
                mark("$ " + command.strip().partition("\n")[0])
                machine.guest.run(["sh", "-c", command], timeout=120).check()
            time.sleep(seconds)
            mark("end of the machine")
    return log
