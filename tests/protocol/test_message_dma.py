"""VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE: the device asks, the client answers."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pyvfio_user import (
    Access,
    Client,
    ConnectionLost,
    LocalProtocolError,
    MessageDmaError,
    RemoteProtocolError,
)

from .rig import Raw, Rig

DMA_READ, DMA_WRITE = 11, 12


class GuestMemory:
    """Answers DMA messages from a bytearray and remembers their sizes."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.sizes: list[int] = []

    def respond(self, command: int, address: int, count: int, data: bytes) -> bytes:
        self.sizes.append(count)
        if address + count > len(self.bytes):
            raise RemoteProtocolError(errno.ENODEV, "no such memory")
        if command == DMA_WRITE:
            self.bytes[address : address + count] = data
            return b""
        return bytes(self.bytes[address : address + count])


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(1 << 20)


def run_dma(rig: Rig, memory: GuestMemory, work: Callable[[], object]) -> Future[object]:
    """Run `work` on a worker thread of the device, and answer until it is done."""
    pool = ThreadPoolExecutor(1)
    with Client(rig.path, respond=memory.respond) as client:
        client.negotiate()
        future = pool.submit(work)
        while not future.done():
            client.reset()  # a round trip: DMA messages before its answer are answered
        pool.shutdown()
    return future


class TestTransfers:
    def test_reads_and_writes_the_clients_memory(self, rig: Rig, memory: GuestMemory) -> None:
        memory.bytes[0x100:0x105] = b"hello"

        def work() -> bytes:
            rig.device.message_dma.write(0x200, b"world")
            return rig.device.message_dma.read(0x100, 5)

        assert run_dma(rig, memory, work).result() == b"hello"
        assert memory.bytes[0x200:0x205] == b"world"

    @pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
    def test_goes_in_chunks_that_qemu_answers(
        self, rig: Rig, memory: GuestMemory, size: int
    ) -> None:
        data = bytes(n % 251 for n in range(size))

        def work() -> bytes:
            rig.device.message_dma.write(5, data)
            return rig.device.message_dma.read(5, size)

        assert run_dma(rig, memory, work).result() == data
        assert max(memory.sizes, default=0) <= 65536
        assert sum(memory.sizes) == 2 * size

    def test_chunks_respect_the_clients_limit(self, rig: Rig, memory: GuestMemory) -> None:
        with Client(rig.path, respond=memory.respond) as client:
            client.negotiate({"max_data_xfer_size": 100})
            pool = ThreadPoolExecutor(1)
            future = pool.submit(rig.device.message_dma.read, 0, 250)
            while not future.done():
                client.reset()
            pool.shutdown()
        assert memory.sizes == [100, 100, 50]

    def test_many_workers_at_once(self, rig: Rig, memory: GuestMemory) -> None:
        memory.bytes[:] = bytes(n % 251 for n in range(1 << 20))
        pool = ThreadPoolExecutor(8)

        def work() -> bool:
            def one(start: int) -> bool:
                found = rig.device.message_dma.read(start, 999)
                return found == memory.bytes[start : start + 999]

            return all(pool.map(one, range(0, 200_000, 1000)))

        assert run_dma(rig, memory, work).result() is True
        pool.shutdown()


class TestRefusals:
    def test_a_refused_access_names_errno_and_chunk(self, rig: Rig, memory: GuestMemory) -> None:
        start = (1 << 20) - 65536

        def work() -> None:
            rig.device.message_dma.read(start, 2 * 65536)

        failure = run_dma(rig, memory, work).exception()
        assert isinstance(failure, MessageDmaError)
        assert (failure.errno, failure.iova) == (errno.ENODEV, 1 << 20)

    def test_without_a_client_it_is_lost(self, rig: Rig) -> None:
        with pytest.raises(ConnectionLost):
            rig.device.message_dma.read(0, 1)

    def test_on_the_protocol_thread_it_is_refused_instead_of_waiting_for_itself(
        self, rig: Rig, client: Client
    ) -> None:
        caught: list[Exception] = []

        class Doorbell:
            def read(self, offset: int, count: int) -> bytes:
                try:
                    rig.device.message_dma.read(0, 1)
                except LocalProtocolError as error:
                    caught.append(error)
                return bytes(count)

            def write(self, offset: int, data: bytes) -> None:
                raise NotImplementedError

        rig.device.bars[2].handler = Doorbell()
        assert client.region_read(2, 0, 4) == bytes(4)
        assert len(caught) == 1

    def test_within_an_access_it_is_refused(self, rig: Rig, memory: GuestMemory) -> None:
        """An unmap would wait for the access, and the access for the client."""

        def work() -> None:
            with rig.device.dma.access(0, 0, Access.READ):
                rig.device.message_dma.read(0, 1)

        assert isinstance(run_dma(rig, memory, work).exception(), LocalProtocolError)


@pytest.fixture
def in_flight(rig: Rig, raw: Raw) -> Future[bytes]:
    """A DMA_READ of 8 bytes at 0x1000 that the client has received and not answered."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(rig.device.message_dma.read(0x1000, 8))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work).start()
    message_id, command, flags, _, payload = raw.reply()
    assert (command, flags, payload) == (DMA_READ, 0, struct.pack("=QQ", 0x1000, 8))
    assert message_id == 0
    return future


def answer(raw: Raw, payload: bytes, *, command: int = DMA_READ, message_id: int = 0) -> None:
    raw.message(command, payload, message_id=message_id, flags=1)


class TestRawAnswers:
    def test_the_data_follows_address_and_count(self, raw: Raw, in_flight: Future[bytes]) -> None:
        answer(raw, struct.pack("=QQ", 0x1000, 8) + b"8 bytes!")
        assert in_flight.result(30) == b"8 bytes!"

    def test_requests_are_answered_while_dma_is_in_flight(
        self, raw: Raw, in_flight: Future[bytes]
    ) -> None:
        """Neither RESET nor UNMAP may wait for it: each side would wait for the other."""
        assert raw.ask(13)[0] == 0
        assert raw.ask(3, struct.pack("=IIQQ", 24, 0, 0x1000, 0x1000))[0] == 0
        assert not in_flight.done()
        answer(raw, struct.pack("=QQ", 0x1000, 8) + bytes(8))
        assert in_flight.result(30) == bytes(8)

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"", id="empty"),
            pytest.param(struct.pack("=QQ", 0x1000, 8), id="no-data"),
            pytest.param(struct.pack("=QQ", 0x1000, 8) + bytes(7), id="less-data"),
            pytest.param(struct.pack("=QQ", 0x1000, 8) + bytes(9), id="more-data"),
            pytest.param(struct.pack("=QQ", 0x1000, 7) + bytes(7), id="another-count"),
            pytest.param(struct.pack("=QQ", 0x2000, 8) + bytes(8), id="another-address"),
        ],
    )
    def test_an_answer_to_something_else_is_an_error(
        self, raw: Raw, in_flight: Future[bytes], payload: bytes
    ) -> None:
        answer(raw, payload)
        with pytest.raises(MessageDmaError) as caught:
            in_flight.result(30)
        assert caught.value.errno == errno.EPROTO
        assert raw.ask(13)[0] == 0

    def test_an_error_without_errno_is_an_error(self, raw: Raw, in_flight: Future[bytes]) -> None:
        """Header: the errno may be zero even if the Error bit is set."""
        raw.message(DMA_READ, flags=0x21, message_id=0)
        with pytest.raises(MessageDmaError):
            in_flight.result(30)

    def test_a_reply_of_another_command_or_id_is_none(
        self, raw: Raw, in_flight: Future[bytes]
    ) -> None:
        good = struct.pack("=QQ", 0x1000, 8) + bytes(8)
        answer(raw, good, command=DMA_WRITE)
        answer(raw, good, message_id=1)
        assert raw.ask(13)[0] == 0
        assert not in_flight.done()
        answer(raw, good)
        assert in_flight.result(30) == bytes(8)

    def test_the_client_goes_away(self, raw: Raw, in_flight: Future[bytes]) -> None:
        raw.close()
        with pytest.raises(ConnectionLost):
            in_flight.result(30)

    @pytest.mark.parametrize("tail", ["=QI", "=QQ"])
    def test_a_write_is_confirmed_with_a_count_of_either_size(
        self, rig: Rig, raw: Raw, tail: str
    ) -> None:
        """The specification says 4 bytes, QEMU sends 8."""
        pool = ThreadPoolExecutor(1)
        future = pool.submit(rig.device.message_dma.write, 0x1000, b"data")
        message_id, command, _, _, payload = raw.reply()
        assert (command, payload) == (DMA_WRITE, struct.pack("=QQ", 0x1000, 4) + b"data")
        answer(raw, struct.pack(tail, 0x1000, 4), command=DMA_WRITE, message_id=message_id)
        future.result(30)
        pool.shutdown()
