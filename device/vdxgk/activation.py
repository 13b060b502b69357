"""Sockets that a service manager listens at: socket activation as in sd_listen_fds(3)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pyvfio_user import ServerError
from pyvfio_user.listener import Inherited

_FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_listeners(paths: Sequence[str]) -> dict[str, int]:
    """The descriptors that listen at some of ``paths`` already, by path.

    Empty unless LISTEN_PID is this process.  The variables are unset, so that no child takes
    them for its own.  Raises ServerError if a descriptor is no listening AF_UNIX stream
    socket, or listens where nobody asked for it.
    """
    pid, count, _ = (os.environ.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    wanted = {os.path.realpath(path): path for path in paths}
    found = {}
    for descriptor in range(_FIRST, _FIRST + int(count)):
        address = _address(descriptor)
        path = wanted.pop(os.path.realpath(address), None)
        if path is None:
            raise ServerError(
                f"the service manager listens at {address}, which is no --socket: make "
                f"ListenStream= the same as one of {', '.join(paths)}"
            )
        found[path] = descriptor
    return found


def _address(descriptor: int) -> str:
    """Where a descriptor listens; it stays open."""
    inherited = Inherited(descriptor)
    try:
        if not inherited.is_listening:
            raise ServerError(f"descriptor {descriptor} of LISTEN_FDS is a connection: Accept=no")
        address = inherited.socket.getsockname()
    finally:
        inherited.socket.detach()
    return address if isinstance(address, str) else repr(address)
