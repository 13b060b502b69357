"""Builds inside a guest's sysroot, with the guest's own compiler.

The helper programs of Debian's kernel headers need their release's C library,
so the compiler of the host, and the host itself, will not do.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vdxgk_lab.errors import SetupError
from vdxgk_lab.trees import Tree

_TAIL_LINES = 30
_MARKS = ("error:", "*** ", ": not found", "undefined reference")
_SUFFIXES = {".c", ".h", ".S"}
_NAMES = {"Makefile", "Kbuild"}


def copy_sources(source: Path, target: Path) -> None:
    """Copy what a build is made of, and nothing that an earlier one made."""
    for path in source.rglob("*"):
        generated = path.name.endswith(".mod.c")
        if (path.suffix in _SUFFIXES or path.name in _NAMES) and not generated:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


@contextlib.contextmanager
def workplace(source: Path, tree: Tree, kind: str) -> Iterator[tuple[Path, str]]:
    """A copy of `source` in the tree: its path here, and its path inside the tree."""
    work = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=tree.root / "build"))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        yield work, f"/build/{work.name}"
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(tree: Tree, command: Sequence[str], log: Path, what: str) -> None:
    """Run a command inside the tree; its output goes to `log`.

    Raises SetupError, which shows the lines that matter, if it fails.
    """
    with log.open("wb") as output:
        done = subprocess.run(
            [*enter(tree, os.geteuid() == 0), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        text = log.read_text(errors="replace")
        hint = "\n".join([*_complaints(text), f"All of it: {log}"])
        raise SetupError(f"{what} does not build.", hint)


def _complaints(log: str) -> list[str]:
    """The lines to show: those that name an error, for jobs run side by side."""
    lines = log.splitlines()
    marked = [line for line in lines if any(mark in line for mark in _MARKS)]
    return (marked or lines)[-_TAIL_LINES:]


def enter(tree: Tree, root: bool) -> list[str]:
    """The words that run a command with the tree as its root directory."""
    if root and not _may_mount():
        return ["chroot", str(tree.root)]
    # A user namespace may change its root, but make no devices; and objtool,
    # since Linux 7, looks for its stack in /proc.
    script = (
        'mount --bind /dev/null "$0/dev/null" && mount --rbind /proc "$0/proc" && '
        'exec chroot "$0" "$@"'
    )
    user = () if root else ("--map-root-user",)
    return ["unshare", *user, "--mount", "sh", "-c", script, str(tree.root)]


@functools.cache
def _may_mount() -> bool:
    """Whether root is one that mounts, as in most containers it is not."""
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return probe.returncode == 0
