"""Every exception of the library.

VfioUserError
+-- RemoteProtocolError   the peer broke the protocol; `errno` is what it is told
+-- LocalProtocolError    the caller used this library wrongly
+-- ServerError           the socket cannot be served
+-- ConnectionLost        the peer has gone
+-- DmaFault              the DMA table refuses an access
+-- MessageDmaError       the client refuses an access by message
"""

from __future__ import annotations

import enum
import os


class Access(enum.IntFlag):
    """What a DMA range allows, or what an access wants (DMA_MAP, flags)."""

    NONE = 0
    READ = 1
    WRITE = 2


class FaultReason(enum.Enum):
    """Why the DMA table refuses an access."""

    UNMAPPED = "nothing is mapped there"
    FORBIDDEN = "mapped, but not for this access"
    INACCESSIBLE = "mapped without a usable descriptor"
    OUT_OF_RANGE = "the range wraps 2^64"


class VfioUserError(Exception):
    """The base of them all."""


class RemoteProtocolError(VfioUserError):
    """The peer sent something that the specification forbids.

    `errno` is the hint for the error reply.
    """

    def __init__(self, errno: int, message: str) -> None:
        """Keep the errno (positive) and say what was wrong."""
        super().__init__(message)
        self.errno = errno


class LocalProtocolError(VfioUserError):
    """The caller asked for something that the protocol or this library forbids."""


class ServerError(VfioUserError):
    """The server cannot listen at its path."""


class ConnectionLost(VfioUserError):  # noqa: N818 - an event, not a mistake
    """There is no client, or it went away during the operation."""


class DmaFault(VfioUserError):  # noqa: N818 - the word of the hardware
    """The DMA table refuses an access; `address` is the first byte that fails."""

    def __init__(self, address: int, access: Access, reason: FaultReason) -> None:
        """Say where, for what, and why."""
        super().__init__(f"DMA {access.name} at {address:#x}: {reason.value}")
        self.address = address
        self.access = access
        self.reason = reason


class MessageDmaError(VfioUserError):
    """The client answered a DMA_READ or DMA_WRITE with an error.

    `iova` is the first byte of the chunk that it refused.
    """

    def __init__(self, errno: int, iova: int) -> None:
        """Keep the client's errno, which may be 0 (not said)."""
        super().__init__(f"DMA message at {iova:#x}: {os.strerror(errno)}")
        self.errno = errno
        self.iova = iova
