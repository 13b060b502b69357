"""The qtest protocol, without I/O: commands out, replies in.

One line for a command, one for its reply, in order (QEMU, system/qtest.c:
"qtest protocol").  Numbers are hexadecimal or decimal, data is base64.
"""

from __future__ import annotations

import base64

from vdxgk_lab.errors import VmError

LONGEST_LINE = 48 << 20
"""Bytes.  The longest reply is a `b64read`, four bytes for three."""


class QtestRefused(VmError):  # noqa: N818
    """QEMU did not carry out a command: its words."""


def command(name: str, *arguments: int | str) -> bytes:
    """One command; numbers become hexadecimal."""
    words = [name, *(f"{word:#x}" if isinstance(word, int) else word for word in arguments)]
    return " ".join(words).encode() + b"\n"


def number(reply: str) -> int:
    """The value in the reply to a read.  Raises QtestRefused if there is none."""
    try:
        return int(reply, 0)
    except ValueError as error:
        raise QtestRefused(f"QEMU answered {reply[:80]!r} to a read.") from error


def data(reply: str) -> bytes:
    """The bytes in the reply to a `b64read`."""
    return base64.b64decode(reply, validate=True)


def encoded(content: bytes) -> str:
    """Bytes as `b64write` takes them."""
    return base64.b64encode(content).decode()


class Replies:
    """Collects what came, and takes it apart."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self._buffer = bytearray()
        self._searched = 0  # bytes known to hold no end of line

    def feed(self, content: bytes) -> None:
        """Add bytes.  Raises QtestRefused if a line becomes too long."""
        self._buffer += content
        if len(self._buffer) > LONGEST_LINE:
            raise QtestRefused(f"QEMU sent more than {LONGEST_LINE} bytes in one reply.")

    def take(self) -> str | None:
        """What follows `OK` in the next reply; None if it is not all there.

        Raises QtestRefused for `FAIL` and `ERR`.  Lines that tell of
        interrupts are skipped: nobody asks for them here.
        """
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            self._searched = 0
            line = self._buffer[:end].decode("ascii", "replace").rstrip("\r")
            del self._buffer[: end + 1]
            status, _, rest = line.partition(" ")
            if status == "IRQ":
                continue
            if status != "OK":
                raise QtestRefused(f"QEMU refused a qtest command: {line[:200]}.")
            return rest
        self._searched = len(self._buffer)
        return None
