"""The miniport knows nothing of Linux: it compiles for the Windows ABI.

The headers assert every size and offset, so that compiling is the check.
"""

from __future__ import annotations

import shutil

from tests.unit.conftest import Compiler

MINGW = "x86_64-w64-mingw32-gcc"
# Without a compiler for Windows, one that is told the parts of that ABI which
# our layouts depend on: every type of the headers has a fixed size anyway.
GCC = ("gcc", "-mabi=ms", "-mms-bitfields")
FLAGS = ("-std=gnu11", "-O2", "-ffreestanding", "-Wall", "-Wextra", "-Werror")


def test_the_miniport_compiles_for_the_windows_abi(compiler: Compiler) -> None:
    compilers: list[tuple[str, ...]] = [GCC]
    if not compiler.prefix and shutil.which(MINGW):
        compilers.append((MINGW,))
    sources = sorted(path.name for path in (compiler.work / "miniport").glob("*.c"))
    assert len(sources) > 3
    at = compiler.seen_as
    for command in compilers:
        for source in sources:
            unit = ("-I", f"{at}/include", "-c", f"{at}/miniport/{source}", "-o", f"{at}/unit.o")
            compiler.run(*command, *FLAGS, *unit)
