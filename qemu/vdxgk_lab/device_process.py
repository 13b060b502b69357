"""The device's server as a child process, for one machine or several in turn."""

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vdxgk_lab import processes
from vdxgk_lab.errors import LabError

_READY_SECONDS = 60
_STOP_SECONDS = 10
_TAIL = 1500


class DeviceLost(LabError):  # noqa: N818
    """The device's server did not start, or is gone."""


class DeviceProcess:
    """`vdxgk serve` at sockets in a directory; a context manager.

    `socket` and `control` are the first adapter's, `sockets` and `controls` are all of
    them.  Leave its context after that of the machine: QEMU suffers when its device
    goes first.
    """

    def __init__(
        self,
        directory: Path,
        options: Sequence[str] = (),
        name: str = "device",
        adapters: int = 1,
    ) -> None:
        """`options` are those of `vdxgk serve`; the log is `<name>.log` in `directory`.

        Of several `adapters` each serves one machine; they share the options.
        """
        names = [name, *(f"{name}-{number}" for number in range(2, adapters + 1))]
        self.sockets = tuple(directory / f"{each}.sock" for each in names)
        self.controls = tuple(directory / f"{each}.control" for each in names)
        self.socket, self.control = self.sockets[0], self.controls[0]
        self.log = directory / f"{name}.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until QEMU can connect. Raises DeviceLost with its last words."""
        ready, ready_theirs = os.pipe()
        command = [
            *(sys.executable, "-m", "vdxgk", "serve"),
            *(word for path in self.sockets for word in ("--socket", str(path))),
            *(word for path in self.controls for word in ("--control", str(path))),
            *("--ready-fd", str(ready_theirs), *self._options),
        ]
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    processes.bound_to_parent(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[ready_theirs],
                )
            os.close(ready_theirs)
            ready_theirs = -1
            poll = select.poll()
            poll.register(ready, select.POLLIN)
            if not (poll.poll(_READY_SECONDS * 1000) and os.read(ready, 1)):
                self.stop()
                raise DeviceLost("the device's server did not start.", self.last_words)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(ready)
            if ready_theirs >= 0:
                os.close(ready_theirs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self._process is not None
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace").strip()[-_TAIL:]

    def check(self) -> None:
        """Raises DeviceLost unless it runs."""
        if not self.alive:
            raise DeviceLost("the device's server is gone.", self.last_words)

    def stop(self) -> int | None:
        """End it; answers its exit status, None if it was never started."""
        return None if self._process is None else processes.end(self._process, _STOP_SECONDS)
