"""VFIO_USER_DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE."""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pyvfio_user import Client, MigrationState
from pyvfio_user.wire import Command

from .rig import Asker, Rig, RigMaker

PAGE = 0x1000
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
MIGRATION, STATE, LOG_START, LOG_STOP, LOG_REPORT = 1, 2, 6, 7, 8
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, P2P, PRE_COPY = range(7)
SETTABLE = (STOP, RUNNING, STOP_COPY, RESUMING)


def feature(ask: Asker, flags: int, data: bytes = b"", room: int = 64) -> tuple[int, bytes]:
    """Return errno and data; checks the fixed part of the answer."""
    error, payload = ask(16, struct.pack("=II", 8 + max(room, len(data)), flags) + data)
    if error:
        return error, payload
    argsz, answered = struct.unpack_from("=II", payload)
    assert answered == flags
    if flags & GET and not flags & PROBE:
        assert argsz == len(payload)
    return 0, payload[8:]


def set_state(ask: Asker, state: int) -> int:
    data = struct.pack("=II", state, 0)
    error, answer = feature(ask, STATE | SET, data)
    assert answer == (b"" if error else data)
    return error


def get_state(ask: Asker) -> int:
    error, data = feature(ask, STATE | GET)
    assert error == 0
    state, _ = struct.unpack("=II", data)
    return int(state)


def read(ask: Asker, size: int, argsz: int | None = None) -> tuple[int, bytes]:
    error, payload = ask(17, struct.pack("=II", 8 + size if argsz is None else argsz, size))
    if not error:
        assert struct.unpack_from("=II", payload) == (len(payload), len(payload) - 8)
    return error, payload[8:]


def write(ask: Asker, data: bytes) -> int:
    return ask(18, struct.pack("=II", 8 + len(data), len(data)) + data)[0]


class TestProbe:
    @pytest.mark.parametrize(
        ("index", "methods"),
        [
            *((MIGRATION, GET), (STATE, GET), (STATE, SET), (STATE, GET | SET)),
            *((LOG_START, SET), (LOG_STOP, SET), (LOG_REPORT, GET), (MIGRATION, 0)),
        ],
    )
    def test_what_there_is(self, ask: Asker, index: int, methods: int) -> None:
        assert feature(ask, index | methods | PROBE) == (0, b"")

    @pytest.mark.parametrize(
        ("index", "methods"),
        [
            *((MIGRATION, SET), (MIGRATION, GET | SET), (LOG_START, GET), (LOG_REPORT, SET)),
            *((0, GET), (3, GET), (5, 0), (9, SET), (0xFFFF, 0)),
        ],
    )
    @pytest.mark.parametrize("probe", [0, PROBE])
    def test_what_there_is_not(self, ask: Asker, index: int, methods: int, probe: int) -> None:
        expected = errno.ENOTTY if probe | methods else errno.EINVAL
        assert feature(ask, index | methods | probe) == (expected, b"")

    @pytest.mark.parametrize("flags", [STATE, STATE | GET | SET, STATE | GET | 1 << 19, 1 << 31])
    def test_flags_that_make_no_sense(self, ask: Asker, flags: int) -> None:
        assert feature(ask, flags, bytes(8)) == (errno.EINVAL, b"")

    def test_a_device_that_cannot_migrate(
        self, make_rig: RigMaker, connect: Callable[[Rig], Asker]
    ) -> None:
        ask = connect(make_rig(migratable=False))
        assert feature(ask, MIGRATION | GET)[0] == errno.ENOTTY
        assert feature(ask, STATE | SET, bytes(8))[0] == errno.ENOTTY
        assert read(ask, 8)[0] == errno.ENOTSUP
        assert write(ask, b"") == errno.ENOTSUP
        assert feature(ask, LOG_START | SET | PROBE)[0] == 0

    def test_room_that_is_too_small(self, ask: Asker) -> None:
        assert feature(ask, MIGRATION | GET, room=7)[0] == errno.EINVAL
        assert feature(ask, MIGRATION | GET, room=8) == (0, struct.pack("=Q", 1))
        request = struct.pack("=II", 8, STATE | SET) + struct.pack("=II", STOP, 0)
        assert ask(16, request)[0] == errno.EINVAL
        assert get_state(ask) == RUNNING


class TestStates:
    @pytest.mark.parametrize(("start", "target"), list(itertools.permutations(SETTABLE, 2)))
    def test_every_arc(self, rig: Rig, ask: Asker, start: int, target: int) -> None:
        """Direct State Transitions, Complex State Transitions: over STOP, and no other."""
        leave = {RUNNING: ["stop"], RESUMING: ["load"]}
        enter = {RUNNING: ["run"], STOP_COPY: ["save"]}
        state = self.a_state(ask)
        assert set_state(ask, start) == 0
        if start == RESUMING:
            assert write(ask, state) == 0
        rig.state.calls.clear()
        assert set_state(ask, target) == 0
        assert rig.state.calls == leave.get(start, []) + enter.get(target, [])
        assert get_state(ask) == target

    @staticmethod
    def a_state(ask: Asker) -> bytes:
        assert set_state(ask, STOP_COPY) == 0
        error, state = read(ask, 100_000)
        assert error == 0
        return state

    @pytest.mark.parametrize("state", SETTABLE)
    def test_the_same_state_is_no_change(self, rig: Rig, ask: Asker, state: int) -> None:
        assert set_state(ask, state) == 0
        rig.state.calls.clear()
        assert set_state(ask, state) == 0
        assert rig.state.calls == []

    @pytest.mark.parametrize("state", [ERROR, P2P, PRE_COPY, 7, 8, 0xFFFFFFFF])
    def test_states_that_cannot_be_asked_for(self, ask: Asker, state: int) -> None:
        assert set_state(ask, state) == errno.EINVAL
        assert get_state(ask) == RUNNING

    def test_a_failure_leads_to_error_which_a_reset_ends(self, rig: Rig, ask: Asker) -> None:
        rig.state.failure = RuntimeError("broken")
        assert set_state(ask, STOP) == errno.EIO
        assert get_state(ask) == ERROR
        rig.state.failure = None
        for state in SETTABLE:
            assert set_state(ask, state) == errno.EINVAL
        assert ask(13)[0] == 0
        assert get_state(ask) == RUNNING
        assert set_state(ask, STOP) == 0

    def test_reset_runs_from_anywhere(self, ask: Asker) -> None:
        for state in SETTABLE:
            assert set_state(ask, state) == 0
            assert ask(13)[0] == 0
            assert get_state(ask) == RUNNING

    def test_a_client_that_goes_ends_its_transfer(self, rig: Rig) -> None:
        with Client(rig.path) as client:
            client.negotiate()
            client.device_feature(STATE | SET, struct.pack("=II", RESUMING, 0))
            client.migration_write(b"half")
        assert rig.observer.gone.wait(30)
        assert rig.device.migration.state is MigrationState.STOP
        assert rig.state.calls == ["stop"]


class TestStream:
    def test_moves_a_device(self, make_rig: RigMaker, connect: Callable[[Rig], Asker]) -> None:
        source, target = make_rig(), make_rig()
        source.state.state = bytes(range(256)) * 1000
        source.device.config.write(0x10, b"\0\0\0\xfe")
        source.device.config.write(4, b"\6\0")
        from_, to = connect(source), connect(target)
        assert set_state(from_, STOP_COPY) == 0
        assert set_state(to, RESUMING) == 0
        while True:
            error, part = read(from_, 60_000)
            assert error == 0
            assert write(to, part) == 0
            if len(part) < 60_000:
                break
        assert read(from_, 1) == (0, b"")
        assert set_state(to, RUNNING) == 0
        assert target.state.state == source.state.state
        assert target.device.config.read(0, 256) == source.device.config.read(0, 256)
        assert target.device.config.bus_master_enabled
        assert set_state(from_, RUNNING) == 0

    def test_saved_again_it_begins_again(self, rig: Rig, ask: Asker) -> None:
        set_state(ask, STOP_COPY)
        first = read(ask, 10_000)
        assert first[1].endswith(b"as new")
        set_state(ask, STOP)
        set_state(ask, STOP_COPY)
        assert read(ask, 10_000) == first

    @pytest.mark.parametrize("state", [STOP, RUNNING, RESUMING])
    def test_is_read_in_stop_copy_only(self, ask: Asker, state: int) -> None:
        set_state(ask, state)
        assert read(ask, 8) == (errno.EINVAL, b"")

    @pytest.mark.parametrize("state", [STOP, RUNNING, STOP_COPY])
    def test_is_written_in_resuming_only(self, ask: Asker, state: int) -> None:
        set_state(ask, state)
        assert write(ask, b"12345678") == errno.EINVAL

    @pytest.mark.parametrize("damage", ["empty", "short", "long", "magic", "device"])
    def test_a_bad_state_is_refused(self, rig: Rig, ask: Asker, damage: str) -> None:
        set_state(ask, STOP_COPY)
        state = bytearray(read(ask, 10_000)[1])
        set_state(ask, RESUMING)
        if damage == "empty":
            state.clear()
        elif damage == "short":
            del state[-1]
        elif damage == "long":
            state += b"!"
        else:
            state[0 if damage == "magic" else 20] ^= 1  # 20: the vendor ID
        assert write(ask, bytes(state)) == 0
        assert set_state(ask, STOP) == errno.EINVAL
        assert get_state(ask) == ERROR
        assert "load" not in rig.state.calls

    def test_the_authors_refusal_counts(self, rig: Rig, ask: Asker) -> None:
        set_state(ask, STOP_COPY)
        state = read(ask, 10_000)[1]
        set_state(ask, RESUMING)
        write(ask, state)
        rig.state.failure = ValueError("another version")
        assert set_state(ask, RUNNING) == errno.EINVAL
        assert get_state(ask) == ERROR

    def test_sizes(self, ask: Asker) -> None:
        set_state(ask, STOP_COPY)
        assert read(ask, 9, argsz=16)[0] == errno.EINVAL
        assert read(ask, 131073)[0] == errno.EINVAL
        set_state(ask, RESUMING)
        assert ask(18, struct.pack("=II", 16, 9) + bytes(8))[0] == errno.EINVAL
        assert ask(18, struct.pack("=II", 16, 7) + bytes(8))[0] == errno.EINVAL

    def test_a_state_without_end_is_refused(
        self, rig: Rig, ask: Asker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyvfio_user.migration.MOST_STATE", 1000)
        set_state(ask, RESUMING)
        assert write(ask, bytes(1000)) == 0
        assert write(ask, bytes(1000)) == errno.ENOSPC


class Memory:
    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        os.ftruncate(self.fd, 256 * PAGE)


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    os.close(memory.fd)


def start_log(ask: Asker, page_size: int = PAGE, *ranges: tuple[int, int]) -> tuple[int, bytes]:
    data = struct.pack("=QII", page_size, len(ranges), 0)
    return feature(ask, LOG_START | SET, data + b"".join(struct.pack("=QQ", *r) for r in ranges))


def report(ask: Asker, address: int, length: int, page_size: int = PAGE) -> list[int]:
    request = struct.pack("=QQQ", address, length, page_size)
    error, data = feature(ask, LOG_REPORT | GET, request, room=10_000)
    assert error == 0
    assert data[:24] == request
    words = struct.unpack(f"={(len(data) - 24) // 8}Q", data[24:])
    assert len(words) == -(-length // (64 * page_size))
    return [64 * n + bit for n, word in enumerate(words) for bit in range(64) if word >> bit & 1]


class TestLogging:
    def map(self, ask: Asker, memory: Memory) -> None:
        payload = struct.pack("=IIQQQ", 32, 3, 0, 0x100000, 256 * PAGE)
        assert ask(2, payload, (memory.fd,))[0] == 0

    def test_names_what_the_device_wrote(self, rig: Rig, ask: Asker, memory: Memory) -> None:
        self.map(ask, memory)
        rig.device.dma.write(0x100000, b"before")
        assert start_log(ask)[0] == 0
        rig.device.dma.write(0x100000 + 70 * PAGE - 1, b"xy")
        rig.device.dma.read(0x100000 + 3 * PAGE, 8)
        assert report(ask, 0x100000, 256 * PAGE) == [69, 70]
        assert report(ask, 0x100000, 256 * PAGE) == []
        assert feature(ask, LOG_STOP | SET)[0] == 0
        rig.device.dma.write(0x100000, b"after")
        assert start_log(ask)[0] == 0
        assert report(ask, 0x100000, 256 * PAGE) == []

    def test_of_ranges_and_page_sizes(self, ask: Asker) -> None:
        ranges = [(0, PAGE), (1 << 63, 1 << 63)]
        error, data = start_log(ask, 512, *ranges)
        assert error == 0
        assert data == struct.pack("=QII4Q", PAGE, 2, 0, *ranges[0], *ranges[1])

    def test_refusals(self, ask: Asker) -> None:
        request = struct.pack("=QQQ", 0, PAGE, PAGE)
        assert feature(ask, LOG_REPORT | GET, request)[0] == errno.EINVAL  # off
        assert start_log(ask, 3000)[0] == errno.EINVAL
        assert start_log(ask, PAGE, (0, 0))[0] == errno.EINVAL
        assert start_log(ask, PAGE, ((1 << 64) - PAGE, 2 * PAGE))[0] == errno.EINVAL
        lie = struct.pack("=QII", PAGE, 2, 0) + bytes(16)
        assert feature(ask, LOG_START | SET, lie)[0] == errno.EINVAL
        assert feature(ask, LOG_START | SET, bytes(15))[0] == errno.EINVAL
        assert start_log(ask)[0] == 0
        assert start_log(ask)[0] == errno.EBUSY
        assert feature(ask, LOG_REPORT | GET, request, room=31)[0] == errno.EINVAL
        assert feature(ask, LOG_REPORT | GET, request, room=32)[0] == 0
        for bad in ((0, 0, PAGE), (0, PAGE, 0), (0, PAGE, 3), ((1 << 64) - 1, PAGE, PAGE)):
            data = struct.pack("=QQQ", *bad)
            assert feature(ask, LOG_REPORT | GET, data)[0] == errno.EINVAL
        everything = struct.pack("=QQQ", 0, (1 << 64) - 1, PAGE)
        assert feature(ask, LOG_REPORT | GET, everything, room=1 << 20)[0] == errno.EINVAL

    def test_ends_with_its_client(self, rig: Rig, memory: Memory) -> None:
        with Client(rig.path) as client:
            client.negotiate()
            client.device_feature(LOG_START | SET, struct.pack("=QII", PAGE, 0, 0))
            assert rig.device.dma.dirty.is_on
        assert rig.observer.gone.wait(30)
        assert not rig.device.dma.dirty.is_on

    def test_knows_writes_by_message(self, rig: Rig) -> None:
        def respond(command: Command, address: int, count: int, data: bytes) -> bytes:
            return b""

        with Client(rig.path, respond=respond) as client:
            client.negotiate()
            client.device_feature(LOG_START | SET, struct.pack("=QII", PAGE, 0, 0))
            with ThreadPoolExecutor(1) as pool:
                work = pool.submit(rig.device.message_dma.write, 5 * PAGE, bytes(PAGE + 1))
                while not work.done():
                    client.device_info()  # whoever waits for an answer answers too
                work.result()
            request = struct.pack("=QQQ", 0, 64 * PAGE, PAGE)
            data = client.device_feature(LOG_REPORT | GET, request, room=64)
            assert data[24:] == struct.pack("=Q", 0b1100000)
