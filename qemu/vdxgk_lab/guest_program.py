"""Small C programs for guests, compiled by the guest's own compiler."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vdxgk_lab.cache import Cache, key_of
from vdxgk_lab.errors import SetupError
from vdxgk_lab.tree_build import enter
from vdxgk_lab.trees import Tree

_FORMAT = "1"  # change it when the code below compiles differently
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-static")


def ensure(source: Path, tree: Tree, cache: Cache, headers: Sequence[Path] = ()) -> Path:
    """A static program made of one C file, named as the file is, from the cache if it is there.

    Raises SetupError with the compiler's words if it does not compile.
    """
    files = [part for file in (source, *headers) for part in (file.name, file.read_bytes())]
    key = key_of([_FORMAT, *_FLAGS, tree.root.name, *files])

    def build(target: Path) -> None:
        work = Path(tempfile.mkdtemp(prefix="program-", dir=tree.root / "build"))
        try:
            for file in (source, *headers):
                shutil.copy(file, work)
            inside = f"/build/{work.name}"
            compile_it = ("gcc", *_FLAGS, "-o", f"{inside}/program", f"{inside}/{source.name}")
            run = subprocess.run(
                [*enter(tree, os.geteuid() == 0), *compile_it],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                raise SetupError(f"{source.name} does not compile.", run.stderr[-2000:])
            shutil.copy(work / "program", target / source.stem)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return cache.entry("program", key, build) / source.stem
