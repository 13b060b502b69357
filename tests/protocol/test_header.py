"""Header, Command Concurrency, Message sizes."""

from __future__ import annotations

import array
import errno
import os
import random
import socket
import struct

import pytest

from .rig import Asker, Raw, Rig

GET_INFO = struct.pack("=IIII", 16, 0, 0, 0)
READ = struct.pack("=QII", 0, 2, 4)
NO_REPLY = 0x10
ERROR = 0x20

# Least payload of every command that has one.
FIXED = {2: 32, 3: 24, 4: 16, 5: 32, 6: 16, 7: 16, 8: 20, 9: 16, 10: 16, 15: 8, 16: 8, 17: 8, 18: 8}
# Requests that are right, behind their argsz.
REPLY_ARGSZ = {
    3: struct.pack("=IQQ", 0, 0x1000, 0x1000),
    4: bytes(12),
    5: bytes(28),
    7: bytes(12),
}
REQUEST_ARGSZ = {
    2: struct.pack("=IQQQ", 3, 0, 0x1000, 0x1000),
    8: struct.pack("=IIII", 0x21, 2, 0, 0),
}


class TestHeader:
    def test_id_and_command_come_back(self, raw: Raw) -> None:
        for message_id in (0, 1, 0xFFFF, 1):
            raw.message(4, GET_INFO, message_id=message_id)
            assert raw.reply()[:4] == (message_id, 4, 1, 0)

    def test_ids_can_be_used_concurrently(self, raw: Raw) -> None:
        raw.message(4, GET_INFO)
        raw.message(9, READ)
        assert [raw.reply()[1] for _ in range(2)] == [4, 9]

    def test_no_reply_is_honoured_by_success_and_by_failure(self, raw: Raw) -> None:
        raw.message(9, READ, flags=NO_REPLY, message_id=1)
        raw.message(99, b"", flags=NO_REPLY, message_id=2)
        raw.message(9, b"", flags=NO_REPLY, message_id=3)
        raw.message(4, GET_INFO, message_id=4)
        assert raw.reply()[0] == 4

    def test_an_error_reply_is_only_a_header(self, raw: Raw) -> None:
        raw.message(99, b"payload")
        assert raw.reply() == (7, 99, 1 | ERROR, errno.ENOSYS, b"")

    @pytest.mark.parametrize("command", [0, 14, 19, 99, 0xFFFF])
    def test_an_unknown_command_is_enosys(self, ask: Asker, command: int) -> None:
        assert ask(command) == (errno.ENOSYS, b"")
        assert ask(13)[0] == 0

    def test_a_type_that_does_not_exist_is_refused(self, raw: Raw) -> None:
        raw.message(13, flags=2)
        assert raw.reply()[3] == errno.EINVAL
        assert raw.ask(13)[0] == 0

    def test_a_reply_that_nobody_waits_for_is_ignored(self, raw: Raw) -> None:
        raw.message(11, bytes(100), flags=1)
        assert raw.ask(13)[0] == 0

    @pytest.mark.parametrize("size", [0, 1, 15])
    def test_a_size_below_the_header_ends_the_connection(self, raw: Raw, size: int) -> None:
        raw.message(13)
        raw.message(13, size=size)
        assert raw.reply()[3] == 0
        assert raw.at_end()


class TestMessageSizes:
    @pytest.mark.parametrize("command", FIXED)
    def test_a_short_payload_is_refused(self, ask: Asker, command: int) -> None:
        for size in {0, FIXED[command] - 1}:
            assert ask(command, bytes(size)) == (errno.EINVAL, b"")
        assert ask(13)[0] == 0

    @pytest.mark.parametrize(("command", "rest"), (REPLY_ARGSZ | REQUEST_ARGSZ).items())
    def test_a_small_argsz_is_refused(self, ask: Asker, command: int, rest: bytes) -> None:
        size = FIXED[command]
        assert ask(command, struct.pack("=I", size - 1) + rest) == (errno.EINVAL, b"")
        assert ask(command, struct.pack("=I", size) + rest)[0] == 0

    @pytest.mark.parametrize(("command", "rest"), REQUEST_ARGSZ.items())
    def test_an_argsz_beyond_the_request_is_refused(
        self, ask: Asker, command: int, rest: bytes
    ) -> None:
        size = FIXED[command]
        assert ask(command, struct.pack("=I", size + 1) + rest) == (errno.EINVAL, b"")

    def test_a_large_argsz_for_the_reply_is_fine(self, ask: Asker) -> None:
        assert ask(4, struct.pack("=IIII", 0xFFFFFFFF, 0, 0, 0))[0] == 0

    def test_an_oversized_message_is_dropped_and_the_stream_stays_in_step(self, raw: Raw) -> None:
        raw.message(10, bytes(1 << 19))
        assert raw.reply()[3] == errno.E2BIG
        assert raw.ask(13)[0] == 0

    def test_an_oversized_message_can_be_cut_anywhere(self, raw: Raw) -> None:
        size = (1 << 18) + 16
        raw.send(struct.pack("=HHIII", 3, 10, size, 0, 0))
        assert raw.reply()[:4] == (3, 10, 1 | ERROR, errno.E2BIG)
        raw.send(bytes(size - 16 - 1))
        raw.send(b"\0" + struct.pack("=HHIII", 4, 13, 16, 0, 0))
        assert raw.reply()[:4] == (4, 13, 1, 0)


def session() -> tuple[bytes, list[tuple[int, int]]]:
    """Return a stream of messages and the (ID, errno) of each reply that it gets."""
    parts: list[tuple[int, bytes, int, int | None]] = [
        (13, b"", 0, 0),
        (9, READ, 0, 0),
        (10, struct.pack("=QII", 8, 2, 4) + b"data", 0, 0),
        (10, struct.pack("=QII", 8, 2, 3) + b"abc", NO_REPLY, None),
        (99, b"junk", 0, errno.ENOSYS),
        (4, GET_INFO, 0, 0),
        (2, struct.pack("=IIQQQ", 32, 3, 0, 0x1000, 0x1000), 0, 0),
        (3, struct.pack("=IIQQ", 24, 0, 0x1000, 0x1000), 0, 0),
        (10, struct.pack("=QII", 0, 3, 5000) + bytes(5000), 0, 0),
        (8, struct.pack("=IIIII", 20, 0x21, 2, 0, 0), 0, 0),
    ]
    stream, expected = b"", []
    for message_id, (command, payload, flags, error) in enumerate(parts):
        stream += struct.pack("=HHIII", message_id, command, 16 + len(payload), flags, 0) + payload
        if error is not None:
            expected.append((message_id, error))
    return stream, expected


class TestCutsAndJoins:
    def check(self, raw: Raw, expected: list[tuple[int, int]]) -> None:
        for message_id, error in expected:
            reply = raw.reply()
            assert (reply[0], reply[3]) == (message_id, error)

    def test_everything_in_one_send(self, raw: Raw) -> None:
        stream, expected = session()
        raw.send(stream * 20)
        for _ in range(20):
            self.check(raw, expected)

    def test_a_cut_at_every_byte(self, raw: Raw) -> None:
        stream, expected = session()
        for cut in [*range(1, 500), *range(500, len(stream), 97)]:
            raw.send(stream[:cut])
            raw.send(stream[cut:])
            self.check(raw, expected)

    def test_byte_by_byte(self, raw: Raw) -> None:
        stream, expected = session()
        for byte in stream:
            raw.send(bytes([byte]))
        self.check(raw, expected)

    def test_random_pieces(self, raw: Raw) -> None:
        chance = random.Random(1)
        stream, expected = session()
        stream *= 50
        while stream:
            size = chance.choice((1, 7, 16, 100, 5000, 60000))
            raw.send(stream[:size])
            stream = stream[size:]
        for _ in range(50):
            self.check(raw, expected)

    def test_the_answers_to_one_receive_leave_in_one_send(self, rig: Rig, raw: Raw) -> None:
        message = struct.pack("=HHIII", 1, 9, 32, 0, 0) + READ
        raw.send(message * 100)
        raw.socket.recv(1, socket.MSG_PEEK)
        assert len(raw.socket.recv(1 << 16)) == 100 * 36

    def test_writes_without_reply_are_done_before_the_next_answer(self, rig: Rig, raw: Raw) -> None:
        """Command Concurrency."""
        for value in range(1000):
            payload = struct.pack("=QIII", 0x10, 2, 4, value)
            raw.message(10, payload, flags=NO_REPLY)
        error, answer = raw.ask(9, struct.pack("=QII", 0x10, 2, 4))
        assert (error, answer[16:]) == (0, struct.pack("=I", 999))
        assert [struct.unpack("=I", data)[0] for _, data in rig.registers.writes] == [*range(1000)]


class TestDescriptors:
    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.fd = os.memfd_create("client")
        os.ftruncate(self.fd, 1 << 20)

    @pytest.fixture(autouse=True)
    def _close(self, _memory: None) -> object:
        yield
        os.close(self.fd)

    def map_message(self, iova: int, message_id: int) -> bytes:
        payload = struct.pack("=IIQQQ", 32, 3, iova, iova, 0x1000)
        return struct.pack("=HHIII", message_id, 2, 48, 0, 0) + payload

    def test_belong_to_the_message_that_begins_with_them_however_it_is_cut(
        self, rig: Rig, raw: Raw
    ) -> None:
        for cut in range(1, 48):
            message = self.map_message(cut << 12, cut)
            raw.send(message[:cut], (self.fd,))
            raw.send(message[cut:])
            assert raw.reply()[3] == 0
            mapping = rig.device.dma.find(cut << 12)
            assert mapping is not None
            assert mapping.backing is not None

    def test_belong_to_the_last_message_of_their_send(self, rig: Rig, raw: Raw) -> None:
        raw.send(self.map_message(0x1000, 1) + self.map_message(0x2000, 2), (self.fd,))
        assert [raw.reply()[3] for _ in range(2)] == [0, 0]
        backings = [mapping.backing is not None for mapping in rig.device.dma.mappings()]
        assert backings == [False, True]

    def test_a_message_before_does_not_take_them(self, rig: Rig, raw: Raw) -> None:
        raw.send(self.map_message(0x1000, 1)[:-1])
        raw.send(self.map_message(0x1000, 1)[-1:] + self.map_message(0x2000, 2), (self.fd,))
        assert [raw.reply()[3] for _ in range(2)] == [0, 0]
        backings = [mapping.backing is not None for mapping in rig.device.dma.mappings()]
        assert backings == [False, True]

    @pytest.mark.parametrize("command", [4, 9, 13])
    def test_are_refused_and_closed_where_none_belong(self, ask: Asker, command: int) -> None:
        payload = {4: GET_INFO, 9: READ, 13: b""}[command]
        assert ask(command, payload, (self.fd,))[0] == errno.EINVAL
        assert ask(command, payload)[0] == 0

    @pytest.mark.parametrize("count", [2, 16, 17, 100, 253])
    def test_too_many_are_refused_and_closed(self, raw: Raw, count: int) -> None:
        raw.send(self.map_message(0, 1), (self.fd,) * count)
        assert raw.reply()[3] == errno.EINVAL
        assert raw.ask(13)[0] == 0

    def test_a_message_cannot_collect_descriptors_for_ever(self, raw: Raw) -> None:
        message = self.map_message(0, 1)
        for byte in message:
            raw.socket.sendmsg(
                [bytes([byte])],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.fd] * 16))],
            )
        assert raw.reply()[3] == errno.EINVAL
