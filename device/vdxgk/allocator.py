"""The C library's allocator, told to keep little of what was freed.

glibc gives each thread a heap of its own, and each keeps some megabytes.  Our threads
take turns under the interpreter's lock and gain nothing by that; but each VNC viewer's
thread passes whole screens through its heap.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # <malloc.h>
_libc = ctypes.CDLL(None)


def keep_little() -> None:
    """One heap for all threads.  Before there are threads; without glibc: nothing."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Let the host have what is free, which takes milliseconds: when somebody has gone."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
