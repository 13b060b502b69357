"""A C compiler for tests: the host's, else the guest's."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vdxgk_lab import tree_build, trees
from vdxgk_lab.cache import Cache


@dataclass(frozen=True)
class Compiler:
    """gcc for x86-64, with a folder `work` that it sees."""

    work: Path
    seen_as: str  # the name of `work` where the compiler runs
    prefix: tuple[str, ...] = ()  # words that bring a command there

    def run(self, *command: str) -> None:
        """Run a command there; its complaints are the test's."""
        subprocess.run([*self.prefix, *command], check=True)


@contextlib.contextmanager
def compiler_in(folder: Path) -> Iterator[Compiler]:
    """Skips where neither host nor guest has one, which CI does not accept.

    The host's works in `folder`.
    """
    if shutil.which("gcc") and shutil.which("objcopy"):
        yield Compiler(folder, str(folder))
        return
    recipe = trees.GUESTS[trees.DEFAULT_KERNEL]
    tree = trees.Tree(Cache().path(recipe.name, recipe.key))
    if not tree.root.is_dir():
        reason = "no C compiler: apt-get install gcc, or make setup"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # The tree does not know the PATH of this host.
    path = ("/usr/bin/env", "PATH=/usr/bin:/bin")
    enter = (*tree_build.enter(tree, os.geteuid() == 0), *path)
    with tempfile.TemporaryDirectory(prefix="unit-", dir=tree.root / "build") as work:
        yield Compiler(Path(work), f"/build/{Path(work).name}", enter)
