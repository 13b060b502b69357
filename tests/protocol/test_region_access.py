"""VFIO_USER_REGION_READ, _WRITE, _WRITE_MULTI."""

from __future__ import annotations

import errno
import struct

import pytest

from pyvfio_user import Client, Reply

from .rig import Asker, Raw, Rig, RigMaker

CONFIG = 7


def read(offset: int, index: int, count: int) -> bytes:
    return struct.pack("=QII", offset, index, count)


def write(offset: int, index: int, data: bytes) -> bytes:
    return struct.pack("=QII", offset, index, len(data)) + data


def multi(*writes: tuple[int, int, bytes]) -> bytes:
    entries = [
        struct.pack("=QII8s", offset, index, len(data), data) for index, offset, data in writes
    ]
    return struct.pack("=Q", len(entries)) + b"".join(entries)


class TestRead:
    def test_repeats_the_request_before_the_data(self, rig: Rig, ask: Asker) -> None:
        rig.registers.bytes[8:12] = b"abcd"
        assert ask(9, read(8, 2, 4)) == (0, read(8, 2, 4) + b"abcd")

    @pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 100, 4096])
    def test_of_any_size(self, ask: Asker, count: int) -> None:
        assert ask(9, read(0, 2, count)) == (0, read(0, 2, count) + bytes(count))

    @pytest.mark.parametrize(
        ("offset", "index", "count"),
        [
            (0x1000, 2, 1),
            (0xFFF, 2, 2),
            (0, 2, 0x1001),
            (2**64 - 1, 2, 1),
            (2**64 - 4, 2, 8),
            (0, 2, 0xFFFFFFFF),
            (0, 1, 1),
            (0, 6, 1),
            (0, 8, 1),
            (0, 9, 1),
            (0, 0xFFFFFFFF, 1),
            (256, CONFIG, 1),
            (0, CONFIG, 257),
        ],
    )
    def test_outside_a_region_is_refused(
        self, ask: Asker, offset: int, index: int, count: int
    ) -> None:
        assert ask(9, read(offset, index, count)) == (errno.EINVAL, b"")
        assert ask(9, read(0, 2, 4))[0] == 0


class TestWrite:
    def test_repeats_the_request_without_the_data(self, rig: Rig, ask: Asker) -> None:
        assert ask(10, write(8, 2, b"abcd")) == (0, read(8, 2, 4))
        assert rig.registers.writes == [(8, b"abcd")]

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(struct.pack("=QII", 0, 2, 4) + b"abc", id="less-data"),
            pytest.param(struct.pack("=QII", 0, 2, 4) + b"abcde", id="more-data"),
            pytest.param(struct.pack("=QII", 0, 2, 0xFFFFFFFF) + b"abcd", id="huge-count"),
        ],
    )
    def test_whose_count_is_not_its_data_is_refused(
        self, rig: Rig, ask: Asker, payload: bytes
    ) -> None:
        assert ask(10, payload)[0] == errno.EINVAL
        assert rig.registers.writes == []

    def test_outside_a_region_is_refused(self, rig: Rig, ask: Asker) -> None:
        assert ask(10, write(0xFFD, 2, b"abcd"))[0] == errno.EINVAL
        assert ask(10, write(0, 1, b"abcd"))[0] == errno.EINVAL
        assert rig.registers.writes == []

    def test_of_the_full_advertised_size(self, make_rig: RigMaker) -> None:
        rig = make_rig()
        with Client(rig.path) as client:
            size = client.negotiate()["max_data_xfer_size"]
            assert size == 131072
            assert client.call(10, write(1, 5, bytes(size))) == Reply(0, read(1, 5, size))
            assert client.region_read(5, 1, size) == bytes(size)
            # One byte more: the message is beyond the limit, and so would the answer be.
            assert client.call(10, write(0, 5, bytes(size + 1))).error == errno.E2BIG
            assert client.call(9, read(0, 5, size + 1)).error == errno.EINVAL
            client.region_write(3, 0, b"\x5a" * 0x10000)
            assert bytes(rig.memory.view) == b"\x5a" * 0x10000
            assert client.region_read(3, 0, 0x10000) == b"\x5a" * 0x10000


class TestWriteMulti:
    def test_writes_in_order(self, rig: Rig, ask: Asker) -> None:
        request = multi((2, 0, b"a"), (2, 8, b"12345678"), (2, 0, b"bc"), (3, 4, b"mem"))
        assert ask(15, request) == (0, struct.pack("=Q", 4))
        assert rig.registers.writes == [(0, b"a"), (8, b"12345678"), (0, b"bc")]
        assert bytes(rig.memory.view[4:7]) == b"mem"

    def test_of_as_many_as_qemu_sends(self, rig: Rig, ask: Asker) -> None:
        request = multi(*((2, 8 * (n % 512), struct.pack("=Q", n)) for n in range(200)))
        assert ask(15, request) == (0, struct.pack("=Q", 200))
        assert len(rig.registers.writes) == 200

    @pytest.mark.parametrize(
        "request_payload",
        [
            pytest.param(multi((2, 0, b"a"))[:-1], id="short"),
            pytest.param(multi((2, 0, b"a")) + b"\0", id="long"),
            pytest.param(struct.pack("=Q", 2**64 - 1), id="immense-count"),
            pytest.param(struct.pack("=QQII8s", 1, 0, 2, 9, b"x"), id="9-bytes"),
            pytest.param(struct.pack("=QQII8s", 1, 0, 2, 0xFFFFFFFF, b"x"), id="huge-write"),
            pytest.param(multi((9, 0, b"a")), id="no-region"),
        ],
    )
    def test_that_makes_no_sense_is_refused(self, ask: Asker, request_payload: bytes) -> None:
        assert ask(15, request_payload)[0] == errno.EINVAL
        assert ask(13)[0] == 0


class TestMixedBar:
    """A BAR of which the client maps two areas; the rest is the handler's."""

    def test_messages_reach_memory_inside_the_areas(self, rig: Rig, client: Client) -> None:
        client.region_write(0, 0x1000, b"mem")
        assert bytes(rig.memory.view[0x1000:0x1003]) == b"mem"
        assert rig.mixed.writes == []

    def test_and_the_handler_elsewhere(self, rig: Rig, client: Client) -> None:
        client.region_write(0, 0xFFC, b"reg!")
        client.region_write(0, 0x3000, b"more")
        assert rig.mixed.writes == [(0xFFC, b"reg!"), (0x3000, b"more")]
        assert client.region_read(0, 0xFFC, 4) == b"reg!"
        assert bytes(rig.memory.view[:0x10000]) == bytes(0x10000)

    def test_an_access_across_the_edges_is_cut(self, rig: Rig, client: Client) -> None:
        data = bytes(range(1, 9))
        client.region_write(0, 0xFFC, data)
        assert rig.mixed.writes == [(0xFFC, data[:4])]
        assert bytes(rig.memory.view[0x1000:0x1004]) == data[4:]
        assert client.region_read(0, 0xFFC, 8) == data
        whole = client.region_read(0, 0, 0x10000)
        client.region_write(0, 0, whole)
        assert client.region_read(0, 0, 0x10000) == whole
        assert [(offset, len(data)) for offset, data in rig.mixed.writes[1:]] == [
            (0, 0x1000),
            (0x3000, 0x5000),
            (0x9000, 0x7000),
        ]

    def test_a_bar_without_handler_reads_zero(self, client: Client) -> None:
        client.region_write(4, 0x10, b"lost")
        assert client.region_read(4, 0x10, 4) == bytes(4)


class TestBrokenModels:
    @pytest.mark.parametrize(
        ("failure", "code"),
        [(ZeroDivisionError(), errno.EIO), (OSError(errno.ENOSPC, "full"), errno.ENOSPC)],
    )
    def test_an_exception_is_answered(
        self, rig: Rig, ask: Asker, failure: Exception, code: int
    ) -> None:
        rig.registers.failure = failure
        assert ask(9, read(0, 2, 4)) == (code, b"")
        assert ask(10, write(0, 2, b"data")) == (code, b"")
        assert ask(15, multi((2, 0, b"a"))) == (code, b"")
        rig.registers.failure = None
        assert ask(9, read(0, 2, 4))[0] == 0
        assert [event["exc_info"] for event in rig.log.named("handler_failed")] == [failure] * 3

    def test_an_exception_in_a_posted_write_gets_no_reply(self, rig: Rig, raw: Raw) -> None:
        rig.registers.failure = RuntimeError("broken model")
        raw.message(10, write(0, 2, b"data"), flags=0x10)
        assert raw.ask(13)[0] == 0

    def test_a_read_of_another_length_is_an_error(self, rig: Rig, ask: Asker) -> None:
        rig.registers.bytes = bytearray(2)
        assert ask(9, read(0, 2, 4))[0] == errno.EIO

    def test_an_observers_exception_changes_nothing(self, rig: Rig, ask: Asker) -> None:
        rig.observer.failure = RuntimeError("broken observer")
        assert ask(2, struct.pack("=IIQQQ", 32, 3, 0, 0, 0x1000))[0] == 0
        assert ask(3, struct.pack("=IIQQ", 24, 0, 0, 0x1000))[0] == 0
        rig.observer.failure = None
        assert len(rig.log.named("observer_failed")) == 2

    def test_a_flood_of_refusals_does_not_flood_the_log(self, rig: Rig, raw: Raw) -> None:
        for _ in range(1000):
            raw.message(99, flags=0x10)
        raw.ask(13)
        assert len(rig.log.named("refused")) == 100
