"""Device features ("VFIO_USER_DEVICE_FEATURE"): probe, get, set."""

from __future__ import annotations

import enum
import errno
import struct
from typing import TYPE_CHECKING

from .addresses import ADDRESS_END
from .dirty import DirtyLog, bitmap_size
from .errors import RemoteProtocolError
from .migration import STOP_COPY_SUPPORTED, Migration

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX_MASK = 0xFFFF
GET = 1 << 16
SET = 1 << 17
PROBE = 1 << 18

MIGRATION = struct.Struct("=Q")
DEVICE_STATE = struct.Struct("=II")  # state, data_fd (unused)
LOGGING_START = struct.Struct("=QII")  # page size, ranges, reserved
LOGGING_RANGE = struct.Struct("=QQ")
LOGGING_REPORT = struct.Struct("=QQQ")  # address, length, page size
NO_DATA_FD = 0xFFFF_FFFF


class Feature(enum.IntEnum):
    """Feature indices ("Device Features")."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2
    DMA_LOGGING_START = 6
    DMA_LOGGING_STOP = 7
    DMA_LOGGING_REPORT = 8


class Features:
    """Carries out the features of one device.  For the protocol thread."""

    def __init__(self, migration: Migration, log: DirtyLog) -> None:
        self._migration = migration
        self._log = log
        self._methods: dict[tuple[int, int], Callable[[bytes, int], bytes]] = {
            (Feature.DMA_LOGGING_START, SET): self._start_log,
            (Feature.DMA_LOGGING_STOP, SET): self._stop_log,
            (Feature.DMA_LOGGING_REPORT, GET): self._report_log,
        }
        if migration.is_supported:
            self._methods |= {
                (Feature.MIGRATION, GET): self._get_migration,
                (Feature.MIG_DEVICE_STATE, GET): self._get_state,
                (Feature.MIG_DEVICE_STATE, SET): self._set_state,
            }

    def handle(self, flags: int, data: bytes, room: int) -> bytes:
        """Return the data of the reply, of at most `room` bytes.

        Raises RemoteProtocolError: ENOTTY, as in Linux, for a feature or
        method that the device lacks, else EINVAL.
        """
        index, methods = flags & INDEX_MASK, flags & (GET | SET)
        if flags & ~(INDEX_MASK | GET | SET | PROBE) or not flags & (GET | SET | PROBE):
            raise RemoteProtocolError(errno.EINVAL, f"flags {flags:#x}")
        if len(data) > room:
            raise RemoteProtocolError(errno.EINVAL, f"argsz leaves {room} bytes for {len(data)}")
        known = {method for feature, method in self._methods if feature == index}
        wanted = {method for method in (GET, SET) if methods & method}
        if not known or not wanted <= known:
            raise RemoteProtocolError(errno.ENOTTY, f"feature {index}, methods {methods:#x}")
        if flags & PROBE:
            return data
        if len(wanted) != 1:
            raise RemoteProtocolError(errno.EINVAL, "both get and set")
        return self._methods[index, methods](data, room)

    def _get_migration(self, _data: bytes, room: int) -> bytes:
        return _fitting(MIGRATION.pack(STOP_COPY_SUPPORTED), room)

    def _get_state(self, _data: bytes, room: int) -> bytes:
        return _fitting(DEVICE_STATE.pack(self._migration.state, NO_DATA_FD), room)

    def _set_state(self, data: bytes, _room: int) -> bytes:
        state, _ = _fields(DEVICE_STATE, data)
        self._migration.set_state(state)
        return data

    def _start_log(self, data: bytes, _room: int) -> bytes:
        page_size, count, reserved = _fields(LOGGING_START, data)
        ranges = data[LOGGING_START.size :]
        if len(ranges) != count * LOGGING_RANGE.size:
            raise RemoteProtocolError(errno.EINVAL, f"{len(ranges)} bytes for {count} ranges")
        # The device "can optimize its logging" for the ranges; ours has no need to.
        for address, length in LOGGING_RANGE.iter_unpack(ranges):
            if not length or address + length > ADDRESS_END:
                raise RemoteProtocolError(errno.EINVAL, f"range {address:#x}, {length:#x}")
        chosen = self._log.start(page_size)
        return LOGGING_START.pack(chosen, count, reserved) + ranges

    def _stop_log(self, data: bytes, _room: int) -> bytes:
        self._log.stop()
        return data

    def _report_log(self, data: bytes, room: int) -> bytes:
        address, length, page_size = _fields(LOGGING_REPORT, data)
        if page_size and LOGGING_REPORT.size + bitmap_size(length, page_size) > room:
            raise RemoteProtocolError(errno.EINVAL, "the bitmap does not fit the reply")
        return data[: LOGGING_REPORT.size] + self._log.report(address, length, page_size)


def _fields(fields: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < fields.size:
        raise RemoteProtocolError(errno.EINVAL, f"data of {len(data)}, least {fields.size}")
    return fields.unpack_from(data)


def _fitting(data: bytes, room: int) -> bytes:
    if len(data) > room:
        raise RemoteProtocolError(errno.EINVAL, f"argsz leaves {room} bytes for {len(data)}")
    return data
