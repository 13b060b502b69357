"""Which QEMU to use: the user's if it is new enough, else the sysroot's."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from vdxgk_lab import trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.progress import Reporter
from vdxgk_lab.trees import Tree

DEVICE = "vfio-user-pci"
MINIMUM = (10, 1)
_PROGRAM = "qemu-system-x86_64"
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class QemuBinary:
    """A QEMU that can be started, and has the device that we need."""

    command: tuple[str, ...]  # the first words of a command line
    version: str
    origin: str  # for a person: where it comes from
    environment: Mapping[str, str] = field(default_factory=dict)  # what it needs besides ours


def find(cache: Cache, reporter: Reporter) -> QemuBinary:
    """`$QEMU`, else the one on PATH if it will do, else the sysroot's.

    Raises Misconfigured if `$QEMU` will not do, SetupError if the sysroot
    cannot be had.
    """
    return _of_host() or from_tree(trees.ensure(trees.QEMU, cache, reporter))


def find_installed(cache: Cache) -> QemuBinary | None:
    """As :func:`find`, but None where that would download."""
    tree = cache.path(trees.QEMU.name, trees.QEMU.key)
    return _of_host() or (from_tree(Tree(tree)) if tree.is_dir() else None)


def _of_host() -> QemuBinary | None:
    if chosen := os.environ.get("QEMU"):
        return check((chosen,), f"QEMU={chosen}")
    if on_path := shutil.which(_PROGRAM):
        with contextlib.suppress(Misconfigured):  # distributions have older ones
            return check((on_path,), on_path)
    return None


def check(command: tuple[str, ...], origin: str) -> QemuBinary:
    """Start a QEMU to see what it can do.

    Raises Misconfigured, with what to change, if it is no QEMU for this
    machine type, is too old or was built without the device.
    """
    hint = (
        f"Set QEMU= to a {_PROGRAM} of version {'.'.join(map(str, MINIMUM))} or newer that was "
        f"built with {DEVICE}, or unset it to use one that set-up downloads."
    )
    match = re.search(r"QEMU emulator version ((\d+)\.(\d+)\S*)", _output(command, "-version"))
    if match is None:
        raise Misconfigured(f"{origin} is not a QEMU that can be started.", hint)
    version = match[1]
    if (int(match[2]), int(match[3])) < MINIMUM:
        raise Misconfigured(f"{origin} is QEMU {version}, which has no {DEVICE}.", hint)
    if f'"{DEVICE}"' not in _output(command, "-device", "help"):
        raise Misconfigured(f"{origin} (QEMU {version}) was built without {DEVICE}.", hint)
    return QemuBinary(command, version, origin)


def from_tree(tree: Tree) -> QemuBinary:
    """The QEMU of a sysroot, which the recipe says is new enough."""
    modules = tree.root / "usr/lib/x86_64-linux-gnu/qemu"
    firmware = [tree.root / "usr/share" / name for name in ("qemu", "seabios")]
    command = [*tree.command(f"usr/bin/{_PROGRAM}")]
    for directory in firmware:
        command += ["-L", str(directory)]
    return QemuBinary(
        command=tuple(command),
        version=re.split(r"[+:]", tree.versions()["qemu-system-x86"])[1],
        origin="the sysroot",
        environment={"QEMU_MODULE_DIR": str(modules)},
    )


def _output(command: tuple[str, ...], *arguments: str) -> str:
    try:
        return subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
