"""KVM only if it runs guests, which an existing /dev/kvm does not prove.

A probe starts a machine whose firmware is a few instructions of ours, and
sees whether they ran.
"""

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from vdxgk_lab.command_line import ACCELERATORS, Accelerator
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.qemu_binary import QemuBinary

_DEVICE = Path("/dev/kvm")
_ROM_SIZE = 0x10000
_RESET_VECTOR = 0xFFF0
_PROBE_SECONDS = 5
_EXIT_PORT = 0xF4
_VALUE = 0x2A

# 16-bit code at F000:0000: enter 32-bit protected mode, as any guest does at
# once, then report. Offsets are those of the 64 KiB ROM, which the reset
# mapping puts at 0xffff0000.
_CODE = bytes.fromhex(
    "fa"  # cli
    "2e660f01164000"  # lgdt cs:[0x40]
    "0f20c0"  # mov eax, cr0
    "0c01"  # or al, 1
    "0f22c0"  # mov cr0, eax
    "66ea2000ffff0800"  # jmp 0x08:0xffff0020
)
_PROTECTED = bytes.fromhex(
    "66b81000"  # mov ax, 0x10
    "8ed8"  # mov ds, ax
    f"b0{_VALUE:02x}"  # mov al, _VALUE
    f"e6{_EXIT_PORT:02x}"  # out _EXIT_PORT, al
    "f4"  # hlt
)
_GDT = bytes.fromhex("0000000000000000ffff0000009acf00ffff00000092cf00")
_GDT_POINTER = (len(_GDT) - 1).to_bytes(2, "little") + (0xFFFF0050).to_bytes(4, "little")


def probe_rom() -> bytes:
    """The firmware of the probe."""
    rom = bytearray(b"\xf4" * _ROM_SIZE)
    for offset, part in ((0, _CODE), (0x20, _PROTECTED), (0x40, _GDT_POINTER), (0x50, _GDT)):
        rom[offset : offset + len(part)] = part
    jump = b"\xe9" + (-_RESET_VECTOR - 3 & 0xFFFF).to_bytes(2, "little")  # jmp to offset 0
    rom[_RESET_VECTOR : _RESET_VECTOR + len(jump)] = jump
    return bytes(rom)


@functools.cache
def why_not_kvm(command: tuple[str, ...]) -> str:
    """Why this QEMU cannot run guests by KVM here; "" if it can. Asked once a process."""
    if not _DEVICE.exists():
        return f"{_DEVICE} does not exist"
    # Some hosts have a KVM of another kind, which runs no ordinary guests.
    if not {"vmx", "svm"}.intersection(Path("/proc/cpuinfo").read_text().split()):
        return "the processor offers no virtualisation (no vmx, no svm)"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"this user may not open {_DEVICE}"
    if runs_probe(command, "kvm"):
        return ""
    return f"{_DEVICE} is there, but a probe did not run on it"


def runs_probe(command: tuple[str, ...], accelerator: Literal["kvm", "tcg"]) -> bool:
    """Whether a machine under `accelerator` runs the probe."""
    with tempfile.NamedTemporaryFile(prefix="vdxgk-probe-") as rom:
        rom.write(probe_rom())
        rom.flush()
        arguments = [
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35", "-accel", accelerator, "-cpu", "max", "-m", "64"),
            *("-bios", rom.name),
            *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=4"),
        ]
        try:
            run = subprocess.run(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return run.returncode == _VALUE << 1 | 1  # as isa-debug-exit says it


def _from_environment() -> Accelerator:
    text = os.environ.get("ACCEL", "auto")
    for accelerator in ACCELERATORS:
        if text == accelerator:
            return accelerator
    raise Misconfigured(f"ACCEL={text}: choose one of {', '.join(ACCELERATORS)}.")


def choose(wanted: Accelerator, qemu: QemuBinary) -> Literal["kvm", "tcg"]:
    """KVM where it works, unless told otherwise, here or by `$ACCEL`.

    Raises Misconfigured if KVM is insisted on and does not work.
    """
    if wanted == "auto":
        wanted = _from_environment()
    if wanted == "tcg":
        return "tcg"
    reason = why_not_kvm(qemu.command)
    if wanted == "kvm" and reason:
        raise Misconfigured(f"No KVM: {reason}.", "Leave the accelerator to auto, or choose tcg.")
    return "tcg" if reason else "kvm"
