"""`vdxgk serve` in a process of its own whose system calls fail when a test says so.

faults.c is preloaded into it, between Python and the C library: the process, its
threads and its kernel are the real ones.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.compiling import compiler_in
from tests.waiting import readable

SOURCE = Path(__file__).with_name("faults.c")
_PAGE = struct.Struct("=iiiii32s84s")
_ARMED = struct.Struct("=i")
_SKIP_AT, _HITS_AT = 8, 16
SHORT = 0
"""Instead of an errno: only one byte is transferred."""
ALWAYS = 1 << 30
PATIENCE = 60


def build(folder: Path) -> Path:
    """The shared object that is preloaded."""
    with compiler_in(folder) as compiler:
        source = compiler.work / "faults.c"
        source.write_bytes(SOURCE.read_bytes())
        at = compiler.seen_as
        compiler.run(
            *["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread", "-o"],
            f"{at}/faults.so",
            f"{at}/faults.c",
            "-ldl",
        )
        target = folder / "faults.so"
        target.write_bytes((compiler.work / "faults.so").read_bytes())
    return target


class Faults:
    """What a process is told of the calls that fail."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "faults"
        self.path.write_bytes(bytes(mmap.PAGESIZE))
        with self.path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def arm(self, call: str, error: int, file: str = "", *, skip: int = 0, count: int = 1) -> None:
        """From now on `count` calls fail, after `skip` that pass.

        `call` is the system call's name as strace has it; `file` is a part of the name of
        the file or socket that it is about, or of the path that it is given.
        """
        self.disarm()
        self._skip = skip
        fields = (0, error, skip, count, 0, call.encode(), file.encode())
        self._page[: _PAGE.size] = _PAGE.pack(*fields)
        self._page[: _ARMED.size] = _ARMED.pack(1)

    def disarm(self) -> None:
        """No call fails any more."""
        self._page[: _ARMED.size] = _ARMED.pack(0)

    @property
    def hits(self) -> int:
        """How many calls failed since they were armed."""
        number: int = struct.unpack_from("=i", self._page, _HITS_AT)[0]
        return number

    @property
    def passed(self) -> int:
        """How many calls that fit were let pass since."""
        left: int = struct.unpack_from("=i", self._page, _SKIP_AT)[0]
        return self._skip - max(left, 0)

    def seen(self) -> set[str]:
        """Names of the calls that were made."""
        return set(self._page[_PAGE.size :].rstrip(b"\0").decode().split())


class FaultyServer:
    """`vdxgk serve` with one adapter, viewers' door included."""

    def __init__(self, folder: Path, shim: Path, options: Sequence[str] = ()) -> None:
        self.faults = Faults(folder)
        self.folder = folder / "run"
        self.folder.mkdir()
        self.socket, self.control, self.vnc = (
            str(self.folder / name) for name in ("gpu.sock", "gpu.control", "gpu.vnc")
        )
        self.log_path = folder / "server.log"
        self._shim = shim
        self._options = options

    def start(self) -> Self:
        """Start the process; it need not succeed.  See `ready`."""
        self._ready, theirs = os.pipe()
        doors = ("--socket", self.socket, "--control", self.control, "--vnc", self.vnc)
        command = [sys.executable, "-m", "vdxgk", "serve", *doors, *self._options]
        command += ["--ready-fd", str(theirs)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"LD_PRELOAD": str(self._shim), "FAULTS": str(self.faults.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs],
            )
        os.close(theirs)
        return self

    def ready(self) -> bool:
        """Wait until clients are served, or the process has ended."""
        assert readable(self._ready, PATIENCE), self.log
        return bool(os.read(self._ready, 1))

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit status once it has ended; it gets no longer than a patient person's time."""
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._ready)

    @property
    def log(self) -> str:
        """What it said."""
        return self.log_path.read_text(errors="replace")

    def complaints(self, since: int = 0) -> list[str]:
        """Lines of its log that only a bug of ours writes."""
        return re.findall(r".*(?:Traceback|internal error|handler_failed).*", self.log[since:])


@contextmanager
def faulty_server(folder: Path, shim: Path, options: Sequence[str] = ()) -> Iterator[FaultyServer]:
    """A server that serves; it must end well."""
    server = FaultyServer(folder, shim, options).start()
    try:
        assert server.ready(), server.log
        yield server
    except BaseException:
        server.process.kill()
        server.wait()
        raise
    assert server.stop() == 0, server.log
    assert list(server.folder.iterdir()) == [], "a file was left behind"
