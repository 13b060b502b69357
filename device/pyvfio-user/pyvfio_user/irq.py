"""Interrupts ("VFIO_USER_DEVICE_GET_IRQ_INFO", "VFIO_USER_DEVICE_SET_IRQS").

Every interrupt type has its own vectors and eventfds.  Triggering never
blocks: a full eventfd already tells the client what it must know.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import select
import threading
from functools import partial
from typing import TYPE_CHECKING

from .connection import close_descriptors
from .errors import LocalProtocolError, RemoteProtocolError
from .irq_watch import EventfdWatcher

if TYPE_CHECKING:
    from collections.abc import Mapping

INFO_EVENTFD = 1 << 0
INFO_MASKABLE = 1 << 1
INFO_AUTOMASKED = 1 << 2
INFO_NORESIZE = 1 << 3

DATA_NONE = 1 << 0
DATA_BOOL = 1 << 1
DATA_EVENTFD = 1 << 2
ACTION_MASK = 1 << 3
ACTION_UNMASK = 1 << 4
ACTION_TRIGGER = 1 << 5
_DATA = {DATA_NONE, DATA_BOOL, DATA_EVENTFD}
_DATA_MASK = DATA_NONE | DATA_BOOL | DATA_EVENTFD
_ACTIONS = {ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER}


class IrqType(enum.IntEnum):
    """Interrupt types of a PCI device (<linux/vfio.h>)."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


_FLAGS = {
    IrqType.INTX: INFO_EVENTFD | INFO_MASKABLE | INFO_AUTOMASKED,
    IrqType.MSI: INFO_EVENTFD | INFO_MASKABLE,
    IrqType.MSIX: INFO_EVENTFD | INFO_MASKABLE,
    IrqType.ERR: INFO_EVENTFD,
    IrqType.REQ: INFO_EVENTFD,
}


class _Vector:
    __slots__ = ("eventfd", "masked", "pending", "watched")

    def __init__(self) -> None:
        self.eventfd = -1
        self.watched: dict[int, int] = {}  # by action: the eventfd that the client signals
        self.masked = False
        self.pending = False


def _adopt_eventfd(descriptor: int) -> None:
    """Make sure that a write to it can neither block nor reach a file."""
    try:
        kind = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no /proc in this sandbox
        kind = "anon_inode:[eventfd]"
    if kind != "anon_inode:[eventfd]":
        raise RemoteProtocolError(errno.EINVAL, f"not an eventfd: {kind:.40}")
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)


def _has_room(eventfd: int) -> bool:
    """Whether a signal can be added."""
    poll = select.poll()
    poll.register(eventfd, select.POLLOUT)
    return bool(poll.poll(0))


class Irqs:
    """The interrupts of a device.  Safe to use from any thread."""

    def __init__(self, counts: Mapping[IrqType, int]) -> None:
        """`counts` says how many vectors each type has; none if it is not named."""
        self._lock = threading.Lock()
        self._watcher = EventfdWatcher()
        self._vectors = [[_Vector() for _ in range(counts.get(kind, 0))] for kind in IrqType]

    def info(self, index: int) -> tuple[int, int]:
        """Return flags and count of a type.  Raises RemoteProtocolError(EINVAL)."""
        vectors = self._type(index)
        return (_FLAGS[IrqType(index)] if vectors else 0), len(vectors)

    def trigger(self, irq_type: IrqType, vector: int) -> bool:
        """Signal an interrupt; False if the client has set no eventfd for it.

        A masked interrupt stays pending until it is unmasked.  Never blocks.

        Raises LocalProtocolError for a vector that the device does not have.
        """
        with self._lock:
            vectors = self._vectors[irq_type]
            if not 0 <= vector < len(vectors):
                raise LocalProtocolError(f"no vector {vector} of {irq_type.name}")
            return self._trigger(irq_type, vectors[vector])

    def set(
        self,
        flags: int,
        index: int,
        start: int,
        count: int,
        *,
        data: bytes = b"",
        descriptors: list[int],
    ) -> None:
        """Carry out DEVICE_SET_IRQS; takes what it keeps out of `descriptors`.

        Raises RemoteProtocolError: ENOTSUP for a combination that the type
        does not have, else EINVAL.  Raises OSError when the host has too little
        to watch an eventfd.
        """
        kind, action = flags & _DATA_MASK, flags & ~_DATA_MASK
        vectors = self._type(index)
        if kind not in _DATA or action not in _ACTIONS:
            raise RemoteProtocolError(errno.EINVAL, f"flags {flags:#x}")
        if start + count > len(vectors):
            raise RemoteProtocolError(errno.EINVAL, f"vectors {start}, {count}")
        if descriptors and (kind != DATA_EVENTFD or len(descriptors) != count):
            raise RemoteProtocolError(errno.EINVAL, f"{len(descriptors)} descriptors")
        if kind == DATA_BOOL and len(data) < count:
            raise RemoteProtocolError(errno.EINVAL, f"{len(data)} booleans for {count}")
        irq_type = IrqType(index)
        if count == 0:
            # "As a special case, a count (and start) of 0 ... disables all".
            if kind != DATA_NONE or action != ACTION_TRIGGER or start:
                raise RemoteProtocolError(errno.EINVAL, "a count of 0")
            self._assign(vectors, [])
            self._unwatch(vectors, (ACTION_MASK, ACTION_UNMASK))
            return
        if action != ACTION_TRIGGER and not _FLAGS[irq_type] & INFO_MASKABLE:
            raise RemoteProtocolError(errno.ENOTSUP, f"{irq_type.name} cannot be masked")
        chosen = vectors[start : start + count]
        if kind == DATA_EVENTFD:
            self._set_eventfds(action, irq_type, chosen, descriptors)
            return
        if kind == DATA_BOOL:
            chosen = [vector for vector, wanted in zip(chosen, data, strict=False) if wanted]
        with self._lock:
            for vector in chosen:
                self._act(action, irq_type, vector)

    def reset(self) -> None:
        """Forget what is masked and pending; the eventfds stay."""
        with self._lock:
            for vectors in self._vectors:
                for vector in vectors:
                    vector.masked = vector.pending = False

    def clear(self) -> None:
        """Close every eventfd: the client has gone."""
        for vectors in self._vectors:
            self._assign(vectors, [])
            self._unwatch(vectors, (ACTION_MASK, ACTION_UNMASK))

    def _type(self, index: int) -> list[_Vector]:
        if index >= len(self._vectors):
            raise RemoteProtocolError(errno.EINVAL, f"interrupt type {index}")
        return self._vectors[index]

    def _assign(self, vectors: list[_Vector], descriptors: list[int]) -> None:
        """Give each vector its eventfd, or none; the list is empty afterwards."""
        old: list[int] = []
        with self._lock:
            for position, vector in enumerate(vectors):
                if vector.eventfd >= 0:
                    old.append(vector.eventfd)
                vector.eventfd = descriptors[position] if descriptors else -1
                vector.masked = vector.pending = False
            descriptors.clear()
        close_descriptors(old)

    def _set_eventfds(
        self, action: int, irq_type: IrqType, vectors: list[_Vector], descriptors: list[int]
    ) -> None:
        for descriptor in descriptors:
            _adopt_eventfd(descriptor)
        if action == ACTION_TRIGGER:
            self._assign(vectors, descriptors)
        else:
            self._watch(action, irq_type, vectors, descriptors)

    def _watch(
        self, action: int, irq_type: IrqType, vectors: list[_Vector], descriptors: list[int]
    ) -> None:
        """Let the client mask or unmask by eventfd, or no longer; the list is empty afterwards.

        KVM signals such an eventfd at the end of a level-triggered interrupt.
        """
        self._unwatch(vectors, (action,))
        for vector in vectors if descriptors else []:
            self._watcher.add(descriptors[0], partial(self._signalled, action, irq_type, vector))
            vector.watched[action] = descriptors.pop(0)

    def _unwatch(self, vectors: list[_Vector], actions: tuple[int, ...]) -> None:
        for vector in vectors:
            for action in actions:
                if action in vector.watched:
                    self._watcher.remove(vector.watched.pop(action))

    def _signalled(self, action: int, irq_type: IrqType, vector: _Vector) -> None:
        with self._lock:
            self._act(action, irq_type, vector)

    def _act(self, action: int, irq_type: IrqType, vector: _Vector) -> None:
        if action == ACTION_TRIGGER:
            self._trigger(irq_type, vector)
        elif action == ACTION_MASK:
            vector.masked = True
        else:
            vector.masked = False
            if vector.pending:
                vector.pending = False
                self._trigger(irq_type, vector)

    @staticmethod
    def _trigger(irq_type: IrqType, vector: _Vector) -> bool:
        if vector.eventfd < 0:
            return False
        if vector.masked:
            vector.pending = True
            return True
        # A full one means that the client has yet to read an earlier signal.  It is asked
        # first, because the client shares the flag that says not to wait, and may clear it.
        if _has_room(vector.eventfd):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(vector.eventfd, 1)
        if irq_type is IrqType.INTX:
            vector.masked = True  # AUTOMASKED, until the client unmasks
        return True
