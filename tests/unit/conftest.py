"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vdxgk_lab import stub_build, tree_build, trees
from vdxgk_lab.cache import Cache

Constants = Callable[[str], bytes]
"""From C source to the bytes of its constants, as a compiler for x86-64 lays them out."""


@dataclass(frozen=True)
class Compiler:
    """gcc for x86-64: this host's, else the guest's, with the stub's sources in `work`."""

    work: Path
    seen_as: str  # the name of `work` where the compiler runs
    prefix: tuple[str, ...] = ()  # words that bring a command there

    def run(self, *command: str) -> None:
        """Run a command there; its complaints are the test's."""
        subprocess.run([*self.prefix, *command], check=True)


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Compiler]:
    """Skipped where neither host nor guest has one, which CI does not accept."""
    if shutil.which("gcc") and shutil.which("objcopy"):
        yield _with_sources(Compiler(tmp_path, str(tmp_path)))
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
        yield _with_sources(Compiler(Path(work), f"/build/{Path(work).name}", enter))


def _with_sources(compiler: Compiler) -> Compiler:
    for folder in ("include", "miniport"):
        shutil.copytree(stub_build.sources() / folder, compiler.work / folder)
    shutil.copy(stub_build.sources() / "Makefile", compiler.work)
    return compiler


@pytest.fixture
def c_constants(compiler: Compiler) -> Constants:
    """Compiles constants against the stub's headers."""

    def constants(source: str) -> bytes:
        (compiler.work / "constants.c").write_text(source)
        at = compiler.seen_as
        compiler.run(*f"gcc -I {at}/include -c {at}/constants.c -o {at}/constants.o".split())
        copy = "objcopy -O binary --only-section=.rodata"
        compiler.run(*f"{copy} {at}/constants.o {at}/constants".split())
        return (compiler.work / "constants").read_bytes()

    return constants
