"""Migration of a device's state ("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE").

Without PRE_COPY every arc of the specification's state machine begins or ends
in STOP, so a change of state is: leave the old one, then enter the new one.

The library saves what is its own, the configuration space; the device author
adds an opaque state.  Mappings and eventfds are the client's to make again.
"""

from __future__ import annotations

import enum
import errno
import struct
from typing import Protocol

from .errors import RemoteProtocolError
from .pci import ConfigSpace

STOP_COPY_SUPPORTED = 1 << 0  # VFIO_MIGRATION_STOP_COPY
MOST_STATE = 64 << 20

_HEADER = struct.Struct("<8sIQ")  # magic, bytes of configuration space, bytes of the author's
_MAGIC = b"VFUSER01"


class MigrationState(enum.IntEnum):
    """States of a device (<linux/vfio.h>, enum vfio_device_mig_state)."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4


_SETTABLE = frozenset(MigrationState) - {MigrationState.ERROR}


class Migratable(Protocol):
    """What a device author writes.  Called on the protocol thread: be quick.

    An exception puts the device into the state ERROR, which a reset ends.
    """

    def stop(self) -> None:
        """Let DMA and interrupts end; start none before `run` or a reset."""
        ...

    def run(self) -> None:
        """Go on."""
        ...

    def save(self) -> bytes:
        """Return the state of the stopped device, at most 64 MiB."""
        ...

    def load(self, state: bytes) -> None:
        """Take the state of another device, stopped.  Raises ValueError for one that is no good."""
        ...


class Migration:
    """The state machine, and the stream of state.  For the protocol thread."""

    def __init__(self, config: ConfigSpace, device: Migratable | None) -> None:
        """Without a `device` nothing is supported."""
        self.state = MigrationState.RUNNING
        self._config = config
        self._device = device
        self._stream = bytearray()
        self._position = 0

    @property
    def is_supported(self) -> bool:
        """Whether the device can be migrated."""
        return self._device is not None

    def set_state(self, number: int) -> None:
        """Change the state, over STOP where there is no direct arc.

        Raises RemoteProtocolError(EINVAL) for a state that cannot be asked
        for, in the state ERROR, or for loaded state that is no good.
        """
        if number not in _SETTABLE or self.state is MigrationState.ERROR:
            raise RemoteProtocolError(errno.EINVAL, f"state {number} after {self.state.name}")
        target = MigrationState(number)
        if target is self.state:
            return
        try:
            if self.state is not MigrationState.STOP:
                self._leave()
                self.state = MigrationState.STOP
            if target is not MigrationState.STOP:
                self._enter(target)
                self.state = target
        except BaseException as error:
            self._fail()
            if isinstance(error, ValueError):
                raise RemoteProtocolError(errno.EINVAL, f"device state: {error}") from error
            raise

    def read(self, size: int) -> bytes:
        """Return the next bytes of the state (MIG_DATA_READ); fewer than `size` at its end.

        Raises RemoteProtocolError(EINVAL) unless the state is being saved.
        """
        if self.state is not MigrationState.STOP_COPY:
            raise RemoteProtocolError(errno.EINVAL, f"no state to read in {self.state.name}")
        data = bytes(self._stream[self._position : self._position + size])
        self._position += len(data)
        return data

    def write(self, data: bytes) -> None:
        """Take the next bytes of a state (MIG_DATA_WRITE).

        Raises RemoteProtocolError: EINVAL unless a state is being restored,
        ENOSPC for a state that is too large.
        """
        if self.state is not MigrationState.RESUMING:
            raise RemoteProtocolError(errno.EINVAL, f"no state is wanted in {self.state.name}")
        if len(self._stream) + len(data) > MOST_STATE + _HEADER.size + self._config.size:
            raise RemoteProtocolError(errno.ENOSPC, "the state is too large")
        self._stream += data

    def reset(self) -> None:
        """Return to RUNNING: the device has been reset, which runs it too."""
        self.state = MigrationState.RUNNING
        self._drop()

    def disconnected(self) -> None:
        """End a transfer that nobody will finish; nothing of it has been loaded."""
        if self.state in (MigrationState.STOP_COPY, MigrationState.RESUMING):
            self.state = MigrationState.STOP
        self._drop()

    def _leave(self) -> None:
        assert self._device is not None
        if self.state is MigrationState.RUNNING:
            self._device.stop()
        elif self.state is MigrationState.RESUMING:
            self._load()
        self._drop()

    def _enter(self, target: MigrationState) -> None:
        assert self._device is not None
        if target is MigrationState.RUNNING:
            self._device.run()
        elif target is MigrationState.STOP_COPY:
            state = self._device.save()
            if len(state) > MOST_STATE:
                raise ValueError(f"{len(state)} bytes are too much")
            config = self._config.save()
            self._stream += _HEADER.pack(_MAGIC, len(config), len(state)) + config + state

    def _load(self) -> None:
        assert self._device is not None
        if len(self._stream) < _HEADER.size:
            raise ValueError("it is not complete")
        magic, config_size, state_size = _HEADER.unpack_from(self._stream)
        if magic != _MAGIC or len(self._stream) != _HEADER.size + config_size + state_size:
            raise ValueError("it is not complete, or of another kind")
        config = bytes(self._stream[_HEADER.size : _HEADER.size + config_size])
        self._config.load(config)
        self._device.load(bytes(self._stream[_HEADER.size + config_size :]))

    def _fail(self) -> None:
        self.state = MigrationState.ERROR
        self._drop()

    def _drop(self) -> None:
        self._stream = bytearray()
        self._position = 0
