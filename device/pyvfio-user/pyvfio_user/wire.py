"""The wire format: constants, and one table that says what a request must look like.

Everything is in the host's byte order ("Protocol Specification").  All
validation that needs no device is here, in `decode`.
"""

from __future__ import annotations

import enum
import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = struct.Struct("=HHIII")
HEADER_SIZE = HEADER.size

TYPE_MASK = 0xF
TYPE_COMMAND = 0
TYPE_REPLY = 1
FLAG_NO_REPLY = 1 << 4
FLAG_ERROR = 1 << 5

DEFAULT_MAX_DATA_XFER = 1 << 20  # VERSION, max_data_xfer_size when it is not said
DEFAULT_MAX_MSG_FDS = 1  # VERSION, max_msg_fds when it is not said
MAX_DESCRIPTORS = 16  # what this library receives in one message; also QEMU's limit
HANDSHAKE_LIMIT = 4096  # the largest VERSION message that is read

DEVICE_FLAGS_RESET = 1 << 0
DEVICE_FLAGS_PCI = 1 << 1

DMA_MAP_FLAGS = 0b11  # readable, writeable
DMA_UNMAP_DIRTY_BITMAP = 1 << 0  # <linux/vfio.h>; not in this protocol
DMA_UNMAP_ALL = 1 << 1  # <linux/vfio.h>; QEMU sends it

REGION_READ = 1 << 0
REGION_WRITE = 1 << 1
REGION_MMAP = 1 << 2
REGION_CAPS = 1 << 3
REGION_CAP_SPARSE_MMAP = 1

IO_FD_TYPE_IOEVENTFD = 0
IOEVENTFD_DATAMATCH = 1 << 0  # <linux/kvm.h>, KVM_IOEVENTFD_FLAG_DATAMATCH


class Command(enum.IntEnum):
    """Message commands ("Commands")."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Argsz(enum.Enum):
    """What a request's `argsz`, always its first field, means ("Message sizes")."""

    ABSENT = enum.auto()
    REQUEST = enum.auto()  # the size of the request's payload
    REPLY = enum.auto()  # the largest reply that the client takes


@dataclass(frozen=True, slots=True)
class Rule:
    """What a request must look like."""

    fields: struct.Struct  # the fixed part; more may follow
    argsz: Argsz = Argsz.ABSENT
    descriptors: int = 0  # at most


RULES: Mapping[int, Rule] = {
    Command.VERSION: Rule(struct.Struct("=HH")),
    Command.DMA_MAP: Rule(struct.Struct("=IIQQQ"), Argsz.REQUEST, descriptors=1),
    Command.DMA_UNMAP: Rule(struct.Struct("=IIQQ"), Argsz.REPLY),
    Command.DEVICE_GET_INFO: Rule(struct.Struct("=IIII"), Argsz.REPLY),
    Command.DEVICE_GET_REGION_INFO: Rule(struct.Struct("=IIIIQQ"), Argsz.REPLY),
    Command.DEVICE_GET_REGION_IO_FDS: Rule(struct.Struct("=IIII"), Argsz.REPLY),
    Command.DEVICE_GET_IRQ_INFO: Rule(struct.Struct("=IIII"), Argsz.REPLY),
    Command.DEVICE_SET_IRQS: Rule(
        struct.Struct("=IIIII"), Argsz.REQUEST, descriptors=MAX_DESCRIPTORS
    ),
    Command.REGION_READ: Rule(struct.Struct("=QII")),
    Command.REGION_WRITE: Rule(struct.Struct("=QII")),
    Command.DMA_READ: Rule(struct.Struct("=QQ")),
    Command.DMA_WRITE: Rule(struct.Struct("=QQ")),
    Command.DEVICE_RESET: Rule(struct.Struct("=")),
    Command.REGION_WRITE_MULTI: Rule(struct.Struct("=Q")),
    Command.DEVICE_FEATURE: Rule(struct.Struct("=II"), Argsz.REPLY),
    Command.MIG_DATA_READ: Rule(struct.Struct("=II"), Argsz.REPLY),
    Command.MIG_DATA_WRITE: Rule(struct.Struct("=II"), Argsz.ABSENT),
}

# The fixed parts, by name, for those who build requests and replies.
DMA_MAP = RULES[Command.DMA_MAP].fields
DMA_UNMAP = RULES[Command.DMA_UNMAP].fields
DEVICE_INFO = RULES[Command.DEVICE_GET_INFO].fields
REGION_INFO = RULES[Command.DEVICE_GET_REGION_INFO].fields
IRQ_INFO = RULES[Command.DEVICE_GET_IRQ_INFO].fields
IRQ_SET = RULES[Command.DEVICE_SET_IRQS].fields
REGION_ACCESS = RULES[Command.REGION_READ].fields
DMA_ACCESS = RULES[Command.DMA_READ].fields
ADDRESS = struct.Struct("=Q")
COUNT32 = struct.Struct("=I")
WRITE_MULTI = RULES[Command.REGION_WRITE_MULTI].fields
WRITE_MULTI_ENTRY = struct.Struct("=QII8s")
REGION_IO_FDS = RULES[Command.DEVICE_GET_REGION_IO_FDS].fields
SUB_REGION = struct.Struct("=QQIIIIQ")  # offset, size, fd_index, type, flags, padding, datamatch
FEATURE = RULES[Command.DEVICE_FEATURE].fields
MIGRATION_DATA = RULES[Command.MIG_DATA_READ].fields
CAP_HEADER = struct.Struct("=HHI")
SPARSE_MMAP = struct.Struct("=II")
SPARSE_MMAP_AREA = struct.Struct("=QQ")


class Message:
    """One message as it came: header fields, payload, descriptors.

    The payload is a view of the receive buffer, valid until the next receive.
    """

    __slots__ = ("command", "descriptors", "error", "flags", "id", "oversized", "payload", "short")

    def __init__(
        self,
        message_id: int,
        command: int,
        flags: int,
        error: int,
        *,
        payload: memoryview,
        descriptors: list[int],
    ) -> None:
        """Take over the descriptors; whoever handles the message closes what it leaves."""
        self.id = message_id
        self.command = command
        self.flags = flags
        self.error = error
        self.payload = payload
        self.descriptors = descriptors
        self.short = False  # the kernel could not deliver every descriptor
        self.oversized = False  # larger than the limit; the payload was thrown away

    @property
    def is_reply(self) -> bool:
        """Whether this is a reply (of either kind)."""
        return self.flags & TYPE_MASK == TYPE_REPLY

    @property
    def wants_reply(self) -> bool:
        """Whether the No_reply bit is clear."""
        return not self.flags & FLAG_NO_REPLY


def decode(message: Message) -> tuple[Any, ...]:
    """Check a request against its rule and unpack its fixed fields.

    Raises RemoteProtocolError: ENOSYS for an unknown command, E2BIG for a
    message beyond the negotiated size, EMFILE for descriptors that were lost,
    else EINVAL.
    """
    if message.oversized:
        raise RemoteProtocolError(errno.E2BIG, "the message exceeds the negotiated size")
    if message.flags & TYPE_MASK != TYPE_COMMAND:
        raise RemoteProtocolError(errno.EINVAL, "neither a command nor a reply")
    rule = RULES.get(message.command)
    if rule is None:
        raise RemoteProtocolError(errno.ENOSYS, f"unknown command {message.command}")
    if len(message.descriptors) > rule.descriptors:
        raise RemoteProtocolError(errno.EINVAL, "too many descriptors for this command")
    if message.short:
        raise RemoteProtocolError(errno.EMFILE, "not every descriptor could be received")
    payload = message.payload
    size = rule.fields.size
    if len(payload) < size:
        raise RemoteProtocolError(errno.EINVAL, f"payload of {len(payload)}, least {size}")
    fields = rule.fields.unpack_from(payload)
    if rule.argsz is not Argsz.ABSENT:
        argsz = fields[0]
        if argsz < size or (rule.argsz is Argsz.REQUEST and argsz > len(payload)):
            raise RemoteProtocolError(errno.EINVAL, f"argsz {argsz}, least {size}")
    return fields


def request(
    message_id: int, command: int, payload: bytes = b"", *, no_reply: bool = False
) -> bytes:
    """Build a command message."""
    flags = TYPE_COMMAND | (FLAG_NO_REPLY if no_reply else 0)
    return HEADER.pack(message_id, command, HEADER_SIZE + len(payload), flags, 0) + payload


def reply(message_id: int, command: int, payload: bytes = b"") -> bytes:
    """Build a successful reply."""
    return HEADER.pack(message_id, command, HEADER_SIZE + len(payload), TYPE_REPLY, 0) + payload


def error_reply(message_id: int, command: int, error: int) -> bytes:
    """Build an error reply, which is only a header ("Header")."""
    return HEADER.pack(message_id, command, HEADER_SIZE, TYPE_REPLY | FLAG_ERROR, error)
