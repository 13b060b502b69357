"""`vdxgk serve` with one command more at its control door, which tries what a sandbox forbids.

What it tries happens in the served process, on a thread like those that handle hostile input.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from vdxgk import serve
from vdxgk.cli import main
from vdxgk.control import Command, Connected

DONE = "done"


def attempts(beside: str, elsewhere: str, port: int, abstract: str) -> dict[str, str]:
    """What comes of each: DONE, or the name of an errno."""

    def connect(family: int, address: Any) -> None:  # noqa: ANN401 - an address is of any kind
        with socket.socket(family) as connection:
            connection.connect(address)

    def listen() -> None:
        with socket.socket(socket.AF_INET) as listener:
            listener.bind(("127.0.0.1", 0))

    def spawn() -> None:
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    tries: dict[str, Callable[[], object]] = {
        "read a file": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "list a directory": lambda: os.listdir("/"),
        "read another process": lambda: os.close(
            os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)
        ),
        "create a file beside the socket": lambda: os.close(
            os.open(f"{beside}/new", os.O_CREAT | os.O_WRONLY)
        ),
        "read a file beside the socket": lambda: os.close(os.open(f"{beside}/secret", os.O_RDONLY)),
        "create a file elsewhere": lambda: os.close(
            os.open(f"{elsewhere}/new", os.O_CREAT | os.O_WRONLY)
        ),
        "remove a file elsewhere": lambda: os.unlink(f"{elsewhere}/secret"),
        "write a file elsewhere": lambda: os.truncate(f"{elsewhere}/kept", 0),
        "make a directory": lambda: os.mkdir(f"{beside}/directory"),
        "connect by TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "listen by TCP": listen,
        "connect to an abstract socket": lambda: connect(socket.AF_UNIX, f"\0{abstract}"),
        "run a program": spawn,
        "send a signal": lambda: os.kill(os.getppid(), signal.SIGCONT),
    }
    return {name: _outcome(attempt) for name, attempt in tries.items()}


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return DONE


def _with_attempts(commands: Callable[..., Mapping[str, Command]]) -> Callable[..., object]:
    def more(*args: object) -> Mapping[str, Command]:
        def attempt(arguments: Mapping[str, Any], connected: Connected) -> object:
            return attempts(**arguments)

        return {**commands(*args), "attempt": attempt}

    return more


if __name__ == "__main__":
    serve.commands = _with_attempts(serve.commands)  # type: ignore[assignment]
    with contextlib.suppress(KeyboardInterrupt):
        main()
