"""A server in a thread, our client, and a raw socket that shares no code with either."""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from pyvfio_user import (
    Bar,
    Client,
    ConfigSpace,
    Device,
    DeviceObserver,
    DmaPolicy,
    Mapping,
    MsixCapability,
    Server,
    SharedMemory,
    VendorCapability,
)

PAGE = 0x1000


class Registers:
    """A handler that keeps bytes and remembers the order of writes."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.writes: list[tuple[int, bytes]] = []
        self.failure: Exception | None = None
        self.gate: threading.Event | None = None  # makes reads wait

    def read(self, offset: int, count: int) -> bytes:
        if self.gate:
            self.gate.wait(30)
        if self.failure:
            raise self.failure
        return bytes(self.bytes[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        if self.failure:
            raise self.failure
        self.writes.append((offset, data))
        self.bytes[offset : offset + len(data)] = data


class Observer(DeviceObserver):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.gone = threading.Event()
        self.failure: Exception | None = None

    def note(self, *event: object) -> None:
        self.events.append(event)
        if self.failure:
            raise self.failure

    def connected(self) -> None:
        self.gone.clear()
        self.note("connected")

    def disconnected(self) -> None:
        self.gone.set()
        self.note("disconnected")

    def reset(self) -> None:
        self.note("reset")

    def described(self) -> None:
        self.note("described")

    def dma_mapped(self, mapping: Mapping) -> None:
        self.note("mapped", mapping.iova, mapping.size)

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        self.note("unmapped", iova, size, removed)


class State:
    """What a device author saves and restores."""

    def __init__(self) -> None:
        self.state = b"as new"
        self.calls: list[str] = []
        self.failure: Exception | None = None

    def stop(self) -> None:
        self.note("stop")

    def run(self) -> None:
        self.note("run")

    def save(self) -> bytes:
        self.note("save")
        return self.state

    def load(self, state: bytes) -> None:
        self.note("load")
        self.state = state

    def note(self, call: str) -> None:
        self.calls.append(call)
        if self.failure:
            raise self.failure


class Log:
    """A structlog-like logger that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **values: object) -> None:
        self.events.append((event, values))

    warning = error = info

    def named(self, event: str) -> list[dict[str, object]]:
        return [values for name, values in self.events if name == event]


class Rig:
    """A device with one of everything, and its server."""

    def __init__(
        self, path: Path, *, policy: DmaPolicy, handshake_seconds: float, migratable: bool
    ) -> None:
        self.path = str(path)
        self.observer = Observer()
        self.log = Log()
        self.registers = Registers(0x1000)
        self.mixed = Registers(0x10000)
        self.memory = SharedMemory(0x10000, "bar0")
        self.state = State()
        config = ConfigSpace(0x1234, 0x5678, 0xFF0000, revision=3, interrupt_pin=1)
        self.vendor_offset = config.add_capability(VendorCapability(b"\x01body"))
        self.msix_offset = config.add_capability(MsixCapability(8, 4, 0, 4, 0x800))
        self.device = Device(
            config,
            {
                0: Bar(
                    0x10000,
                    handler=self.mixed,
                    memory=self.memory,
                    mmap_areas=[(0x1000, 0x2000), (0x8000, 0x1000)],
                    prefetchable=True,
                    is_64bit=True,
                ),
                2: Bar(0x1000, handler=self.registers),
                3: Bar(0x10000, memory=self.memory),
                4: Bar(0x1000),
                5: Bar(0x40000),  # larger than any transfer
            },
            observer=self.observer,
            migratable=self.state if migratable else None,
            dma_policy=policy,
        )
        self.server = Server(
            self.device,
            self.path,
            log=self.log,
            write_multiple=True,
            handshake_seconds=handshake_seconds,
        )
        self.server.open()
        self.thread = threading.Thread(target=self.server.serve, name="serve")
        self.thread.start()

    def close(self) -> None:
        self.server.stop()
        self.thread.join()
        self.memory.close()


class Raw:
    """A client made of a socket and struct only."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.received: list[int] = []
        self.socket.connect(path)

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.received:
            os.close(descriptor)

    def send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            if descriptors
            else []
        )
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def message(
        self,
        command: int,
        payload: bytes = b"",
        *,
        message_id: int = 7,
        flags: int = 0,
        size: int | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        size = 16 + len(payload) if size is None else size
        header = struct.pack("=HHIII", message_id, command, size, flags, 0)
        self.send(header + payload, descriptors)

    def exactly(self, count: int) -> bytes:
        """Receive so many bytes; descriptors that come along are kept in `received`."""
        data = b""
        while len(data) < count:
            part, descriptors, _, _ = socket.recv_fds(self.socket, count - len(data), 16)
            self.received += descriptors
            if not part:
                raise EOFError
            data += part
        return data

    def reply(self) -> tuple[int, int, int, int, bytes]:
        """Return ID, command, flags, errno, payload."""
        message_id, command, size, flags, error = struct.unpack("=HHIII", self.exactly(16))
        return message_id, command, flags, error, self.exactly(size - 16)

    def ask(
        self, command: int, payload: bytes = b"", *, descriptors: tuple[int, ...] = ()
    ) -> tuple[int, bytes]:
        """Send and return errno and payload."""
        self.message(command, payload, descriptors=descriptors)
        _, _, _, error, answer = self.reply()
        return error, answer

    def negotiate(self) -> None:
        text = b'{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}}\0'
        error, _ = self.ask(1, struct.pack("=HH", 0, 0) + text)
        assert error == 0

    def at_end(self) -> bool:
        return self.socket.recv(1) == b""


class Asker:
    """Asks one thing at a time, by our client or by the raw socket."""

    def __init__(self, peer: Client | Raw) -> None:
        self._peer = peer
        self.received: list[int] = []

    def __call__(
        self, command: int, payload: bytes = b"", descriptors: tuple[int, ...] = ()
    ) -> tuple[int, bytes]:
        """Return errno and payload; descriptors that came are in `received`."""
        if isinstance(self._peer, Raw):
            answer = self._peer.ask(command, payload, descriptors=descriptors)
            self.received = self._peer.received
            return answer
        reply = self._peer.call(command, payload, descriptors)
        self.received += reply.descriptors
        return reply.error, reply.payload

    def close(self) -> None:
        if isinstance(self._peer, Client):
            while self.received:
                os.close(self.received.pop())
        self._peer.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


RigMaker = Callable[..., Rig]
