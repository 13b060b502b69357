"""The channel's requests, byte by byte, as a raw client sends them."""

from __future__ import annotations

import ctypes
import struct

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.vdxgk.world import GIB, HIGH_BASE, LOW_RAM, World, contiguous, mdl
from vdxgk.channel import layout
from vdxgk.channel.service import RequestService
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import LARGE_PAGE_SIZE, PAGE_SIZE

BULK = 1 << 16


class Channel:
    """Requests straight into the service."""

    def __init__(self) -> None:
        self.world = World()
        self.bulk = memoryview(bytearray(BULK))
        self.service = RequestService(self.world.backend, self.bulk, structlog.get_logger())

    def send(
        self, op: int, args: bytes = b"", offset: int = 0, size: int = 0, flags: int = 0
    ) -> layout.Completion:
        request = layout.Request(
            op=op, flags=flags, cookie=0xC00C1E, data_offset=offset, data_size=size
        )
        ctypes.memmove(request.args, args, len(args))
        answer = self.service.handle(bytes(request))
        completion = layout.Completion.from_buffer_copy(answer)
        assert completion.cookie == 0xC00C1E
        return completion

    def start(self) -> layout.StartResult:
        self.world.file.write(LOW_RAM, (7).to_bytes(8, "little"))
        args = layout.StartArgs(
            highest_visible=(1 << 32) - 1,
            iommu_caps=4,
            iommu=layout.IOMMU_TRANSLATED,
            highest_ram=8 * GIB - 1,
            aperture_end=(1 << 48) - 1,
            probe_gpa=HIGH_BASE,
            probe_value=7,
        )
        completion = self.send(layout.OP_START_ADAPTER, bytes(args))
        assert completion.status == 0
        return layout.StartResult.from_buffer_copy(completion.result)

    def donate(self, blocks: int) -> None:
        bases = (HIGH_BASE + i * LARGE_PAGE_SIZE for i in range(blocks))
        words = [word for base in bases for word in (base, LARGE_PAGE_SIZE)]
        data = struct.pack(f"<{len(words)}Q", *words)
        self.bulk[: len(data)] = data
        assert self.send(layout.OP_DONATE, size=len(data)).status == 0


@pytest.fixture
def channel() -> Channel:
    return Channel()


def test_create_asks_for_memory_then_answers_runs(channel: Channel) -> None:
    adapter = channel.start().adapter
    args = bytes(contiguous(adapter, 3 * PAGE_SIZE))
    wanted = channel.send(layout.OP_CREATE_OBJECT, args)
    assert wanted.status == layout.NT_MORE_MEMORY
    more = layout.MemoryWanted.from_buffer_copy(wanted.result)
    assert (more.size, more.alignment) == (LARGE_PAGE_SIZE, LARGE_PAGE_SIZE)
    channel.donate(1)
    made = channel.send(layout.OP_CREATE_OBJECT, args, offset=0x100, size=0x100)
    assert made.status == 0
    result = layout.CreateResult.from_buffer_copy(made.result)
    assert (result.size, result.run_count, result.zero) == (3 * PAGE_SIZE, 1, 0)
    assert made.data_count == 1
    assert struct.unpack_from("<2Q", channel.bulk, 0x100) == (HIGH_BASE, 3 * PAGE_SIZE)


def test_a_list_longer_than_its_room_is_read_on(channel: Channel) -> None:
    adapter = channel.start().adapter
    channel.donate(2)
    made = channel.send(layout.OP_CREATE_OBJECT, bytes(mdl(adapter, 64 * PAGE_SIZE)), size=160)
    result = layout.CreateResult.from_buffer_copy(made.result)
    assert made.data_count == 10
    runs = list(struct.unpack_from("<20Q", channel.bulk))
    while len(runs) < 2 * result.run_count:
        args = layout.QueryListArgs(handle=result.object, first=len(runs) // 2)
        count = channel.send(layout.OP_QUERY_LIST, bytes(args), size=160).data_count
        assert count
        runs += struct.unpack_from(f"<{2 * count}Q", channel.bulk)
    assert sum(runs[1::2]) == 64 * PAGE_SIZE


@pytest.mark.parametrize(
    ("op", "flags", "offset", "size", "status"),
    [
        (0, 0, 0, 0, NtStatus.INVALID_DEVICE_REQUEST),
        (999, 0, 0, 0, NtStatus.INVALID_DEVICE_REQUEST),
        (layout.OP_DONATE, 1, 0, 0, NtStatus.INVALID_DEVICE_REQUEST),
        (layout.OP_DONATE, 0, BULK, 1, NtStatus.INVALID_PARAMETER),
        (layout.OP_DONATE, 0, 0xFFFFFFFF, 0xFFFFFFFF, NtStatus.INVALID_PARAMETER),
        (layout.OP_DONATE, 0, 0, 15, NtStatus.INVALID_PARAMETER),
        (layout.OP_QUERY_LIST, 0, 0, 16, NtStatus.INVALID_HANDLE),
        (layout.OP_COMMIT_ADL, 0, 0, 0, NtStatus.INVALID_HANDLE),
    ],
)
def test_malformed_requests_get_a_status(
    channel: Channel, op: int, flags: int, offset: int, size: int, status: NtStatus
) -> None:
    completion = channel.send(op, offset=offset, size=size, flags=flags)
    assert completion.status == status
    assert bytes(completion.result) == bytes(112)


def test_a_bug_of_ours_is_a_status_too(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(channel.world.backend, "create", broken)
    assert channel.send(layout.OP_CREATE_OBJECT).status == NtStatus.INTERNAL_ERROR


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(st.binary(min_size=128, max_size=128), max_size=4), st.integers(0, 16))
def test_arbitrary_bytes_get_an_answer(entries: list[bytes], op: int) -> None:
    channel = Channel()
    channel.start()
    for entry in entries:
        plausible = op.to_bytes(4, "little") + bytes(4) + entry[8:16] + bytes(8) + entry[24:]
        for request in (entry, plausible):
            completion = layout.Completion.from_buffer_copy(channel.service.handle(request))
            assert completion.status != NtStatus.INTERNAL_ERROR
