"""Version and capability negotiation ("VFIO_USER_VERSION"), both roles."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from typing import Any

from .errors import RemoteProtocolError
from .wire import DEFAULT_MAX_DATA_XFER, DEFAULT_MAX_MSG_FDS, RULES, Command

MAJOR = 0
MINOR = 0

# Half of what a released client answers whole; above about 217,000 bytes QEMU
# 11.1 cuts its answer to a DMA_READ.
MAX_DATA_XFER = 128 * 1024

_FIELDS = RULES[Command.VERSION].fields


@dataclass(frozen=True)
class Capabilities:
    """What one side can take.  Sizes in bytes."""

    max_msg_fds: int = DEFAULT_MAX_MSG_FDS
    max_data_xfer_size: int = DEFAULT_MAX_DATA_XFER
    write_multiple: bool = False
    named: frozenset[str] = frozenset()  # the keys that the sender used

    def encode(self, keys: frozenset[str]) -> bytes:
        """Build the payload with those of our capabilities that are in `keys`."""
        known: dict[str, object] = {
            "max_msg_fds": self.max_msg_fds,
            "max_data_xfer_size": self.max_data_xfer_size,
        }
        if self.write_multiple:
            known["write_multiple"] = True
        chosen = {key: value for key, value in known.items() if key in keys}
        text = json.dumps({"capabilities": chosen}, separators=(",", ":"))
        return _FIELDS.pack(MAJOR, MINOR) + text.encode() + b"\0"


def _number(capabilities: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = capabilities.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RemoteProtocolError(errno.EINVAL, f"capability {key}: {value!r:.40}")
    return value


def parse(payload: bytes) -> tuple[int, int, Capabilities]:
    """Read a VERSION payload: major, minor, capabilities; unknown ones are ignored.

    Raises RemoteProtocolError(EINVAL) for version data that is no
    NUL-terminated UTF-8 JSON object, or for a capability out of range.
    """
    if len(payload) < _FIELDS.size:
        raise RemoteProtocolError(errno.EINVAL, "VERSION is too short")
    major, minor = _FIELDS.unpack_from(payload)
    text = payload[_FIELDS.size :]
    if not text:
        return major, minor, Capabilities()
    if text[-1]:
        raise RemoteProtocolError(errno.EINVAL, "version data has no terminating NUL")
    try:
        data = json.loads(text[:-1].decode())
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(errno.EINVAL, "version data is no JSON") from error
    capabilities = data.get("capabilities", {}) if isinstance(data, dict) else None
    if not isinstance(capabilities, dict):
        raise RemoteProtocolError(errno.EINVAL, "version data is no object of capabilities")
    write_multiple = capabilities.get("write_multiple", False)
    if not isinstance(write_multiple, bool):
        raise RemoteProtocolError(errno.EINVAL, "capability write_multiple is no boolean")
    return (
        major,
        minor,
        Capabilities(
            max_msg_fds=_number(capabilities, "max_msg_fds", DEFAULT_MAX_MSG_FDS, 0, 1 << 16),
            max_data_xfer_size=_number(
                capabilities, "max_data_xfer_size", DEFAULT_MAX_DATA_XFER, 1, 1 << 32
            ),
            write_multiple=write_multiple,
            named=frozenset(capabilities),
        ),
    )


def answer(payload: bytes, own: Capabilities) -> tuple[bytes, Capabilities, int]:
    """Play the server: the reply, what the client can take, what it may send us at most.

    The reply names only what the client proposed ("The capability list must
    be a subset of those proposed"), so a client that says nothing about
    transfer sizes may use the specification's default.

    Raises RemoteProtocolError: ENOTSUP for another major version, else EINVAL.
    """
    major, _minor, peer = parse(payload)
    if major != MAJOR:
        raise RemoteProtocolError(errno.ENOTSUP, f"major version {major}")
    limit = own.max_data_xfer_size if "max_data_xfer_size" in peer.named else DEFAULT_MAX_DATA_XFER
    return own.encode(peer.named), peer, limit
