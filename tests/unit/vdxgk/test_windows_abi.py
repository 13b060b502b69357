"""The miniport knows nothing of Linux: it compiles for the Windows ABI.

The headers assert every size and offset, so that compiling is the check.
"""

from __future__ import annotations

import shutil

from tests.compiling import Compiler

MINGW = "x86_64-w64-mingw32-gcc"
# Without a compiler for Windows, one that is told the parts of that ABI which
# our layouts depend on: every type of the headers has a fixed size anyway.
GCC = "gcc -mabi=ms -mms-bitfields"


def test_the_miniport_compiles_for_the_windows_abi(compiler: Compiler) -> None:
    compilers = [GCC]
    if not compiler.prefix and shutil.which(MINGW):
        compilers.append(MINGW)
    sources = sorted(path.name for path in (compiler.work / "miniport").glob("*.c"))
    assert len(sources) > 3
    for command in compilers:
        make = ("make", "-s", "-C", compiler.seen_as, "windows-abi")
        compiler.run(*make, f"WINDOWS_CC={command}")
