"""`python -m pyvfio_user probe SOCKET`: what is behind a socket, as lspci would say it."""

from __future__ import annotations

import argparse
import sys

from .client import Client
from .errors import VfioUserError
from .probe import describe


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pyvfio_user")
    commands = parser.add_subparsers(dest="command", required=True)
    probe = commands.add_parser("probe", help="connect as a client, and say what is there")
    probe.add_argument("socket", help="path of the server's socket")
    options = parser.parse_args(arguments)
    try:
        with Client(options.socket, timeout=10) as client:
            capabilities = client.negotiate()
            print("\n".join(describe(client, capabilities)))
    except (OSError, VfioUserError) as error:
        print(f"{options.socket}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
