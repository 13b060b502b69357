"""What is left to a process that only serves: the descriptors that it holds.

Landlock and the rest bind the calling thread and those that it starts from then on, so
`enter` comes after the sockets are made and before there are threads.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
from collections.abc import Iterable

import landlockpy
from landlockpy import AccessFS, LandlockError, RestrictFlag, Ruleset, Scope

from pyvfio_user import ServerError

NEEDED = 4
"""Landlock's first version that knows TCP; Linux 6.7 has it."""

_LATER = (
    "vdxgk.display.cursor",
    "vdxgk.display.pixels",
    "vdxgk.display.surface",
    "vdxgk.page_moves",
)
"""Modules that are otherwise imported when they are first needed."""

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>
_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>


class SandboxError(ServerError):
    """The sandbox cannot be had; the text says why, and what to do."""


def prepare() -> None:
    """Read all code that may be needed.  Raises SandboxError if this kernel has no sandbox."""
    try:
        version = landlockpy.abi_version()
    except LandlockError as error:
        raise _impossible(f"Landlock cannot be asked for ({error.strerror}): a filter?") from error
    if version == 0:
        raise _impossible("this kernel has no Landlock, or booted without lsm=landlock")
    if version < NEEDED:
        raise _impossible(f"this kernel's Landlock, version {version}, has no rules for TCP")
    # A thread of numpy's would be outside of the sandbox, and is of no use here.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in _LATER:
        importlib.import_module(name)
    from PIL import Image  # noqa: PLC0415 - with the others

    Image.preinit()


def _impossible(why: str) -> SandboxError:
    return SandboxError(
        f"no sandbox: {why}. Take Linux 6.7 or newer with Landlock, or serve without --sandbox"
    )


def enter(sockets: Iterable[str]) -> int:
    """Keep what is open, and the right to remove files beside ``sockets``: nothing else.

    Returns the version of Landlock.  Raises SandboxError.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SandboxError(f"no sandbox: {threads} threads run already")
    try:
        with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as rules:
            for directory in {os.path.dirname(path) or "." for path in sockets}:
                rules.allow_path(directory, AccessFS.REMOVE_FILE)
            rules.restrict(RestrictFlag.TSYNC)
            version = rules.abi_version
    except LandlockError as error:
        raise SandboxError(f"no sandbox: {error}") from error
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _drop_capabilities()
    # Its memory is the guests': no debugger of this user's, no dump.
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    return version


def _drop_capabilities() -> None:
    """Root's too: what it may then do is what its user may."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _call("capset", header, none)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        raise SandboxError(f"no sandbox: {name}: {error.strerror}") from error
