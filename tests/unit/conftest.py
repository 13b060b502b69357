"""Fixtures of the unit tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.compiling import Compiler, compiler_in
from vdxgk_lab import stub_build

Constants = Callable[[str], bytes]
"""From C source to the bytes of its constants, as a compiler for x86-64 lays them out."""


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Compiler]:
    """gcc, with the stub's sources in `work`."""
    with compiler_in(tmp_path) as compiler:
        for folder in ("include", "miniport"):
            shutil.copytree(stub_build.sources() / folder, compiler.work / folder)
        shutil.copy(stub_build.sources() / "Makefile", compiler.work)
        yield compiler


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
