"""Builds the kernel stub inside the guest's sysroot, with the guest's own compiler.

The helper programs of Debian's kernel headers need their release's C library,
so the compiler of the host, and the host itself, will not do.
"""

import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab.cache import Cache, key_of, key_of_files
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.trees import Tree

_FORMAT = "1"  # change it when the code below builds differently
_TAIL_LINES = 30
_MARKS = ("error:", "*** ", ": not found", "undefined reference")
_SUFFIXES = {".c", ".h", ".S"}
_NAMES = {"Makefile", "Kbuild"}


@dataclass(frozen=True)
class Stub:
    """A built stub."""

    module: Path  # vdxgk.ko
    control: Path  # dxgkctl, statically linked


def sources() -> Path:
    """The stub's sources: those of the checkout, else those in the installed package."""
    package = Path(__file__).parent
    for candidate in (package.parent.parent / "kernel_stub", package / "kernel_stub"):
        if (candidate / "include").is_dir():
            return candidate
    raise SetupError("the sources of the kernel stub are missing.", "Install vdxgk again.")


def ensure(tree: Tree, cache: Cache, reporter: Reporter) -> Stub:
    """The stub for a tree's kernel: from the cache, or built.

    Raises SetupError with the end of the compiler's output if it does not
    build.
    """
    with tempfile.TemporaryDirectory(prefix="vdxgk-stub-") as copy:
        # The key is taken from the copy, so it is right whatever an editor
        # does to the sources meanwhile.
        snapshot = Path(copy)
        _copy_sources(sources(), snapshot)
        key = key_of([_FORMAT, tree.root.name, key_of_files(snapshot)])
        built = cache.entry(
            "stub", key, lambda target: _build(snapshot, target, tree, cache, reporter)
        )
    return Stub(module=built / "vdxgk.ko", control=built / "dxgkctl")


def _copy_sources(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        generated = path.name.endswith(".mod.c")
        if (path.suffix in _SUFFIXES or path.name in _NAMES) and not generated:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _build(snapshot: Path, target: Path, tree: Tree, cache: Cache, reporter: Reporter) -> None:
    # Nothing else builds in this tree: the cache entry's lock is held.
    for stale in (tree.root / "build").glob("stub-*"):
        shutil.rmtree(stale)
    work = Path(tempfile.mkdtemp(prefix="stub-", dir=tree.root / "build"))
    log = cache.root / "stub" / "build.log"
    try:
        shutil.copytree(snapshot, work, dirs_exist_ok=True)
        inside = f"/build/{work.name}"
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        command = (
            *("make", jobs, "-C", inside, "all"),
            f"KDIR=/lib/modules/{tree.kernel_release}/build",
            # W=1 checks comments too, by a Perl program that the tree lacks.
            "cmd_checkdoc=",
        )
        with reporter.step(f"kernel stub for {tree.kernel_release}"), log.open("wb") as output:
            _run_inside(tree, command, output.fileno(), log)
        for product in ("vdxgk.ko", "dxgkctl/dxgkctl"):
            shutil.copy(work / product, target)
        shutil.copy(log, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_inside(tree: Tree, command: tuple[str, ...], output: int, log: Path) -> None:
    run = subprocess.run(
        enter(tree, os.geteuid() == 0) + list(command),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        check=False,
    )
    if run.returncode:
        hint = "\n".join([*_complaints(log.read_text(errors="replace")), f"All of it: {log}"])
        raise SetupError("the kernel stub does not build.", hint)


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
