"""Firmware files that come with a QEMU."""

import subprocess
from pathlib import Path

from vdxgk_lab.qemu_binary import QemuBinary

DISPLAY_ROM = "vgabios-bochs-display.bin"
_SECONDS = 60


def find(qemu: QemuBinary, name: str) -> Path | None:
    """Where this QEMU would take a firmware file from; None if it has no such file."""
    run = subprocess.run(
        [*qemu.command, "-L", "help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    paths = (Path(directory) / name for directory in run.stdout.splitlines())
    return next((path for path in paths if path.is_file()), None)


def rom_options(qemu: QemuBinary) -> list[str]:
    """Options of `vdxgk serve` that give the display its boot ROM; none where there is no ROM."""
    rom = find(qemu, DISPLAY_ROM)
    return ["--rom", str(rom)] if rom else []
