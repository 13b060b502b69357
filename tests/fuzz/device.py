"""A device with one of everything, and a session with it, without a socket."""

from __future__ import annotations

import os
import struct

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    DeviceObserver,
    DmaPolicy,
    IoEventfd,
    MsixCapability,
    SharedMemory,
    VendorCapability,
)
from pyvfio_user.bulk import PIECE
from pyvfio_user.hot import Outgoing
from pyvfio_user.session import Session
from pyvfio_user.trace import TraceWriter
from pyvfio_user.version import Capabilities

PROPOSAL = b'\0\0\0\0{"capabilities":{"max_data_xfer_size":65536,"write_multiple":true}}\0'
GREETING = struct.pack("=HHIII", 0, 1, 16 + len(PROPOSAL), 0, 0) + PROPOSAL


Piece = tuple[bytes, list[int], bool]
"""What one receive brings: bytes, descriptors, whether some are missing."""


class Silent:
    """A logger that keeps what must not happen."""

    def __init__(self) -> None:
        self.errors: list[object] = []

    def info(self, event: str, **values: object) -> None:
        """Drop it."""

    warning = info

    def error(self, event: str, **values: object) -> None:
        """Keep it."""
        self.errors.append((event, values))


class State:
    """Device state that can be migrated."""

    def stop(self) -> None:
        """Nothing moves anyway."""

    run = stop

    def save(self) -> bytes:
        """Return something."""
        return b"state"

    def load(self, state: bytes) -> None:
        """Take that, and nothing else."""
        if state != b"state":
            raise ValueError("not mine")


class FuzzedDevice:
    """Use as a context manager; at its end all must be gone and no handler have failed."""

    def __init__(
        self,
        policy: DmaPolicy,
        trace: TraceWriter | None = None,
        observer: DeviceObserver | None = None,
    ) -> None:
        """With a trace, every message goes the session's general way."""
        self.guest_memory = os.memfd_create("guest")
        os.ftruncate(self.guest_memory, 1 << 20)
        self._doorbell = os.eventfd(0)
        self._shared = SharedMemory(0x4000, "bar")
        config = ConfigSpace(1, 2, 3, interrupt_pin=1)
        config.add_capability(VendorCapability(b"123"))
        config.add_capability(MsixCapability(4, 4, 0, 4, 0x800))
        bars = {
            0: Bar(0x4000, memory=self._shared, mmap_areas=[(0x1000, 0x1000)], is_64bit=True),
            4: Bar(0x1000, ioeventfds=[IoEventfd(0x10, 4, self._doorbell)]),
        }
        self.device = Device(config, bars, observer=observer, migratable=State(), dma_policy=policy)
        self.log = Silent()
        offer = Capabilities(16, 131072, True)
        self.session = Session(self.device, self.log, lambda _: None, offer=offer, trace=trace)

    def __enter__(self) -> FuzzedDevice:
        """Shake hands."""
        assert len(self.feed(GREETING)) == 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say goodbye."""
        self.session.lost()
        self.close(check=kind is None)

    def close(self, *, check: bool = True) -> None:
        """Let go of what the device has, for those who serve it otherwise."""
        self._shared.close()
        os.close(self.guest_memory)
        os.close(self._doorbell)
        if check:
            assert not self.log.errors, self.log.errors
            assert not len(self.device.dma)
            assert not self.device.dma.backings()

    def feed(self, data: bytes, descriptors: list[int] | None = None) -> list[Outgoing]:
        """Deliver a chunk, as one receive."""
        space = self.session.connection.get_buffer()
        space[: len(data)] = data
        return self.session.receive(len(data), descriptors)

    def feed_pieces(self, pieces: list[Piece]) -> list[Outgoing]:
        """Deliver chunks as one call has received them, each with its descriptors, or too few."""
        room = memoryview(b"".join(data.ljust(PIECE) for data, _, _ in pieces))
        found = [
            (at * PIECE, at * PIECE + len(data), descriptors, short)
            for at, (data, descriptors, short) in enumerate(pieces)
        ]
        outgoing: list[Outgoing] = []
        self.session.receive_many(room, found, outgoing)
        return outgoing
