"""NTSTATUS values, and the refusal that carries one.

Public documentation names almost no status for the physical-memory family
("an appropriate NTSTATUS"); which one we answer where is our inference unless
a docstring says otherwise.  The values are those of ntstatus.h.
"""

from __future__ import annotations

import enum


class NtStatus(enum.IntEnum):
    """The statuses that the backend answers, by their ntstatus.h names."""

    SUCCESS = 0x00000000
    DEVICE_BUSY = 0x80000011
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    INVALID_HANDLE = 0xC0000008
    INVALID_PARAMETER = 0xC000000D
    INVALID_DEVICE_REQUEST = 0xC0000010
    MORE_PROCESSING_REQUIRED = 0xC0000016
    NO_MEMORY = 0xC0000017
    SECTION_TOO_BIG = 0xC0000040
    INVALID_PAGE_PROTECTION = 0xC0000045
    INSUFFICIENT_RESOURCES = 0xC000009A
    NOT_SUPPORTED = 0xC00000BB
    INTERNAL_ERROR = 0xC00000E5
    COMMITMENT_LIMIT = 0xC000012D
    INVALID_DEVICE_STATE = 0xC0000184
    RESOURCE_IN_USE = 0xC0000708

    @property
    def symbol(self) -> str:
        """The name as ntstatus.h spells it."""
        return f"STATUS_{self.name}"


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """A call that the backend refuses.

    ``status`` is what the caller gets; ``reason`` is a sentence for the log
    that names the argument at fault.
    """

    def __init__(self, status: NtStatus, reason: str) -> None:
        super().__init__(f"{status.symbol}: {reason}")
        self.status = status
        self.reason = reason


def invalid(reason: str) -> Refused:
    """A refusal with STATUS_INVALID_PARAMETER."""
    return Refused(NtStatus.INVALID_PARAMETER, reason)
