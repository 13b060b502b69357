"""The kernel stub, built inside the guest's sysroot."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab import tree_build
from vdxgk_lab.cache import Cache, key_of, key_of_files
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.trees import Tree

_FORMAT = "1"  # change it when the code below builds differently


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
        tree_build.copy_sources(sources(), snapshot)
        key = key_of([_FORMAT, tree.root.name, key_of_files(snapshot)])
        built = cache.entry(
            "stub", key, lambda target: _build(snapshot, target, tree, cache, reporter)
        )
    return Stub(module=built / "vdxgk.ko", control=built / "dxgkctl")


def _build(snapshot: Path, target: Path, tree: Tree, cache: Cache, reporter: Reporter) -> None:
    # Nothing else builds in this tree: the cache entry's lock is held.
    for stale in (tree.root / "build").glob("stub-*"):
        shutil.rmtree(stale)
    log = cache.root / "stub" / "build.log"
    with tree_build.workplace(snapshot, tree, "stub") as (work, inside):
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        command = (
            *("make", jobs, "-C", inside, "all"),
            f"KDIR=/lib/modules/{tree.kernel_release}/build",
            # W=1 checks comments too, by a Perl program that the tree lacks.
            "cmd_checkdoc=",
        )
        with reporter.step(f"kernel stub for {tree.kernel_release}"):
            tree_build.run(tree, command, log, "the kernel stub")
        for product in ("vdxgk.ko", "dxgkctl/dxgkctl"):
            shutil.copy(work / product, target)
        shutil.copy(log, target)
