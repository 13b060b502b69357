"""Commands: `python -m pyvfio_user probe SOCKET` and `... trace FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from .client import Client
from .errors import VfioUserError
from .probe import describe
from .trace import read_trace


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pyvfio_user")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="connect as a client, and say what is there")
    probe.add_argument("place", metavar="socket", help="path of the server's socket")
    trace = commands.add_parser("trace", help="print the messages that a server has traced")
    trace.add_argument("place", metavar="file", help="the file that the server wrote")
    options = parser.parse_args(arguments)
    try:
        for line in {"probe": _probe, "trace": _trace}[options.command](options.place):
            print(line)
    except BrokenPipeError:  # who reads it has seen enough
        sys.stderr.close()
        return 0
    except (OSError, VfioUserError) as error:
        print(f"{options.place}: {error}", file=sys.stderr)
        return 1
    return 0


def _probe(socket: str) -> Iterator[str]:
    with Client(socket, timeout=10) as client:
        yield from describe(client, client.negotiate())


def _trace(file: str) -> Iterator[str]:
    return map(str, read_trace(file))


if __name__ == "__main__":
    sys.exit(main())
