"""Kernel modules for guests, built from a directory of somebody's sources."""

import shutil
import tempfile
from pathlib import Path

from vdxgk_lab import tree_build
from vdxgk_lab.cache import Cache, key_of, key_of_files
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.trees import Tree

_FORMAT = "1"  # change it when the code below builds differently


def ensure(source: Path, tree: Tree, cache: Cache, reporter: Reporter) -> Path:
    """The one module that a directory with a Kbuild or Makefile builds for a tree's kernel.

    From the cache if it is there.  Raises SetupError with the compiler's words
    if it does not build, or makes more than one module or none.
    """
    if not any((source / name).is_file() for name in ("Kbuild", "Makefile")):
        raise SetupError(
            f"{source} has neither Kbuild nor Makefile.",
            f"Make a Kbuild with the line: obj-m := {source.name}.o",
        )
    with tempfile.TemporaryDirectory(prefix="vdxgk-module-") as copy:
        snapshot = Path(copy)
        tree_build.copy_sources(source, snapshot)
        key = key_of([_FORMAT, tree.root.name, source.name, key_of_files(snapshot)])

        def build(target: Path) -> None:
            log = cache.root / "module" / "build.log"
            with (
                tree_build.workplace(snapshot, tree, "module") as (work, inside),
                reporter.step(f"{source.name} for {tree.kernel_release}"),
            ):
                make = ("make", "-C", f"/lib/modules/{tree.kernel_release}/build", f"M={inside}")
                tree_build.run(tree, (*make, "modules"), log, str(source))
                modules = list(work.glob("*.ko"))
                if len(modules) != 1:
                    raise SetupError(f"{source} makes {len(modules)} modules, not one.")
                shutil.copy(modules[0], target)

        (module,) = cache.entry("module", key, build).iterdir()
    return module
