"""A connection to QEMU's qtest accelerator: guest memory, registers and ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from vdxgk_lab.errors import VmError, VmLost
from vdxgk_lab.qtest import protocol

_RECEIVE = 1 << 20
_LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}


class QtestClient:
    """Reads and writes as a processor would.  For one thread.

    Addresses are guest-physical, sizes in bytes.  Everything raises VmLost
    when QEMU is gone or has not answered within `timeout` seconds.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        """Take over a connected stream socket."""
        self._connection = connection
        self._connection.settimeout(timeout)
        self._timeout = timeout
        self._replies = protocol.Replies()

    def close(self) -> None:
        """Hang up: QEMU goes on."""
        self._connection.close()

    def execute(self, name: str, *arguments: int | str) -> str:
        """Carry out a command; answers what follows `OK`.  Raises QtestRefused."""
        try:
            self._connection.sendall(protocol.command(name, *arguments))
            while (reply := self._replies.take()) is None:
                content = self._connection.recv(_RECEIVE)
                if not content:
                    raise VmLost("QEMU hung up.")
                self._replies.feed(content)
        except OSError as error:
            raise VmLost(f"QEMU does not answer {name}: {error}.") from error
        return reply

    # ---- registers, one access each ------------------------------------------

    def load(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes in one access."""
        return protocol.number(self.execute(f"read{_LETTERS[size]}", address))

    def store(self, address: int, value: int, size: int) -> None:
        """Write 1, 2, 4 or 8 bytes in one access."""
        self.execute(f"write{_LETTERS[size]}", address, value)

    def port_in(self, port: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of I/O space."""
        return protocol.number(self.execute(f"in{_LETTERS[size]}", port))

    def port_out(self, port: int, value: int, size: int) -> None:
        """Write 1, 2 or 4 bytes of I/O space."""
        self.execute(f"out{_LETTERS[size]}", port, value)

    # ---- memory --------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """Read any number of bytes."""
        return protocol.data(self.execute("b64read", address, size)) if size else b""

    def write(self, address: int, content: bytes) -> None:
        """Write any number of bytes."""
        if content:
            self.execute("b64write", address, len(content), protocol.encoded(content))

    def fill(self, address: int, size: int, byte: int) -> None:
        """Set every byte of a range."""
        if size:
            self.execute("memset", address, size, byte)

    # ---- waiting -------------------------------------------------------------

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Ask until `condition` holds; each question should be one access.

        Raises VmError after the time limit, with `what` did not happen.
        """
        deadline = time.monotonic() + self._timeout
        while not condition():
            if time.monotonic() > deadline:
                raise VmError(f"{what}: not within {self._timeout:.0f} s.")
