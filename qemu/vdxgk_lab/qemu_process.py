"""A QEMU process and its monitor: what all kinds of machines have in common."""

import contextlib
import os
import shlex
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from vdxgk_lab import processes
from vdxgk_lab.errors import VmError, VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qmp import EventLoopThread, QmpPeer

MONITOR = "qmp"
_TAIL = 3000


class QemuProcess:
    """A QEMU; a context manager, used from one thread.

    A kind of machine says what is on the command line (:meth:`_arguments`) and
    when it has started (:meth:`_connect`).  `qmp` is the monitor.
    """

    _start_seconds = 30.0
    _terminal = False
    """Whether QEMU has our standard input and output."""

    def __init__(self, qemu: QemuBinary, directory: Path, name: str, time_scale: float) -> None:
        """Prepare; entering the context starts it.

        `directory` takes `<name>-qemu.log` and `<name>-command.sh`.  All time
        limits are multiplied by `time_scale`.
        """
        self.time_scale = time_scale
        self._qemu = qemu
        self._log = directory / f"{name}-qemu.log"
        self._script = directory / f"{name}-command.sh"
        self._stack = contextlib.ExitStack()
        self._theirs: dict[str, socket.socket] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.

        Raises VmLost, with its last words, if it ends or hangs before that.
        """
        with contextlib.ExitStack() as stack:
            self._stack = stack
            self._loop = EventLoopThread()
            stack.callback(self._loop.close)
            self.qmp = self._peer("QEMU")
            self._prepare()
            monitor = self._channel(MONITOR)
            self._spawn()
            try:
                self.qmp.connect(
                    monitor, handshake=True, timeout=self._start_seconds * self.time_scale
                )
                self._connect()
            except VmLost as error:
                raise self._explained(error) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, whatever it is doing."""
        self._stack.close()

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """QEMU's process number."""
        assert self._process is not None
        return self._process.pid

    @property
    def words(self) -> str:
        """What QEMU wrote to its standard error."""
        return self._log.read_text(errors="replace")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for QEMU to end by itself; answers its exit status, negative: a signal's number.

        Raises VmError if it still runs after `timeout` (scaled) seconds.
        """
        assert self._process is not None
        limit = None if timeout is None else timeout * self.time_scale
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"the machine still runs after {limit:.0f} s.") from error

    def kill(self) -> None:
        """End QEMU at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    # ---- what a kind of machine adds ------------------------------------------

    def _arguments(self) -> list[str]:
        """The words after the program's name; the channels are there as chardevs."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Make channels and peers besides the monitor's."""

    def _connect(self) -> None:
        """Bring it to where its user takes over; the monitor answers.  May raise VmLost."""

    def _channel(self, name: str) -> socket.socket:
        """Our end of a new connection, whose other end is QEMU's chardev `name`."""
        # Pairs rather than paths: nobody else can connect, and the end of
        # QEMU is the end of the connection.
        ours, theirs = socket.socketpair()
        self._stack.callback(ours.close)
        self._theirs[name] = self._stack.enter_context(theirs)
        return ours

    def _peer(self, name: str) -> QmpPeer:
        """A QMP peer that is closed with the machine."""
        peer = QmpPeer(self._loop, name)
        self._stack.callback(peer.close)
        return peer

    # ---- inner parts -------------------------------------------------------------

    def _spawn(self) -> None:
        descriptors = {name: end.fileno() for name, end in self._theirs.items()}
        command = list(self._qemu.command)
        for name, descriptor in descriptors.items():
            command += ["-chardev", f"socket,id={name},fd={descriptor}"]
        command += ["-qmp", f"chardev:{MONITOR}", *self._arguments()]
        variables = [f"{name}={value}" for name, value in self._qemu.environment.items()]
        self._script.write_text(shlex.join(["env", *variables, *command]) + "\n")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                processes.bound_to_parent(command),
                env={**os.environ, **self._qemu.environment},
                stdin=None if self._terminal else subprocess.DEVNULL,
                stdout=None if self._terminal else log,
                stderr=log,
                pass_fds=tuple(descriptors.values()),
            )
        self._stack.callback(processes.end, self._process)
        for end in self._theirs.values():
            end.close()
        self._theirs.clear()

    def _last_words(self) -> list[str]:
        """What to show of a machine that did not start."""
        return [self.words]

    def _explained(self, error: VmLost) -> VmLost:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # a lost connection comes shortly before the exit status
        status = self._process.poll()
        what = error.message if status is None else f"QEMU ended with status {status}."
        words = (text.strip()[-_TAIL:] for text in self._last_words())
        return VmLost(what, "\n".join(text for text in words if text))
