"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vdxgk_lab import stub_build, trees
from vdxgk_lab.cache import Cache

Constants = Callable[[str], bytes]
"""From C source to the bytes of its constants, as a compiler for x86-64 lays them out."""


@pytest.fixture
def c_constants(tmp_path: Path) -> Iterator[Constants]:
    """Compiles against the stub's headers: by this host's gcc, else by the guest's.

    Skipped where there is neither, which CI does not accept.
    """
    if shutil.which("gcc") and shutil.which("objcopy"):
        yield lambda source: _compile(source, tmp_path, str(tmp_path), [])
        return
    recipe = trees.GUESTS[trees.DEFAULT_KERNEL]
    tree = trees.Tree(Cache().path(recipe.name, recipe.key))
    if not tree.root.is_dir():
        reason = "no C compiler: apt-get install gcc, or make setup"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # The tree does not know the PATH of this host.
    path = ["/usr/bin/env", "PATH=/usr/bin:/bin"]
    enter = [*stub_build.enter(tree, os.geteuid() == 0), *path]
    with tempfile.TemporaryDirectory(prefix="constants-", dir=tree.root / "build") as work:
        yield lambda source: _compile(source, Path(work), f"/build/{Path(work).name}", enter)


def _compile(source: str, work: Path, seen_as: str, prefix: list[str]) -> bytes:
    shutil.copytree(stub_build.sources() / "include", work / "include", dirs_exist_ok=True)
    (work / "constants.c").write_text(source)
    for command in (
        f"gcc -I {seen_as}/include -c {seen_as}/constants.c -o {seen_as}/constants.o",
        f"objcopy -O binary --only-section=.rodata {seen_as}/constants.o {seen_as}/constants",
    ):
        subprocess.run([*prefix, *command.split()], check=True)
    return (work / "constants").read_bytes()
