"""The writer of an audit's log: complete, or with an end that says why not."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio_user import Client, ConfigSpace, Device, Server, SharedMemory
from vdxgk.audit import writer as module
from vdxgk.audit.observer import AuditObserver
from vdxgk.audit.records import HEADER, RECORD, Ending, Kind
from vdxgk.audit.writer import AuditError, AuditWriter

LIMIT = 60.0
"""Seconds after which a test has failed."""
PAGE = 4096


def records(path: Path) -> list[tuple[int, ...]]:
    """Everything behind the times."""
    data = path.read_bytes()[HEADER.size :]
    assert len(data) % RECORD.size == 0
    found = list(RECORD.iter_unpack(data))
    times = [record[0] for record in found]
    assert times == sorted(times)
    return [record[1:] for record in found]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_is_added_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = AuditWriter(str(path))
    writer.add(Kind.MAPPED, 0x1000, 0x1FFF, access=3, file=1, offset=0x5000)
    writer.mark("grün" * 10)
    writer.close()
    mapped, mark, end = records(path)
    assert mapped == (Kind.MAPPED, 3, 1, 0, 0x1000, 0x1FFF, 0x5000)
    assert path.read_bytes()[-2 * RECORD.size :][16:40] == b"gr\xc3\xbcn" * 4 + b"gr\xc3\xbc"
    assert mark[0] == Kind.MARK
    assert end[:2] == (Kind.END, Ending.STOPPED)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_sees_records_while_the_server_runs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = AuditWriter(str(path))
    writer.add(Kind.CONNECTED)
    wait_for(lambda: path.stat().st_size > HEADER.size)
    writer.add(Kind.RESET)
    wait_for(lambda: len(records(path)) == 2)
    writer.close()


def test_at_the_limit_the_log_says_so(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = AuditWriter(str(path), 4096)
    for number in range(1000):
        writer.add(Kind.UNMAPPED, number, number)
    writer.close()
    assert path.stat().st_size == 4080  # 102 times 40
    *found, end = records(path)
    assert [record[4] for record in found] == list(range(100))
    assert end[:2] == (Kind.END, Ending.LIMIT)


def test_a_disk_that_does_not_keep_up_ends_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for it."""
    path = tmp_path / "log"
    write, slow = os.pwrite, threading.Event()
    monkeypatch.setattr(module, "PENDING_LIMIT", 10 * RECORD.size)
    monkeypatch.setattr(os, "pwrite", lambda *arguments: slow.wait(LIMIT) and write(*arguments))
    writer = AuditWriter(str(path))
    for _ in range(100):
        writer.add(Kind.RESET)
    slow.set()
    writer.close()
    assert [record[:2] for record in records(path)] == [
        *[(Kind.RESET, 0)] * 10,
        (Kind.END, Ending.BEHIND),
    ]


@pytest.mark.parametrize("room", [0, 1, RECORD.size, 2 * RECORD.size + 7, 5 * RECORD.size])
def test_a_full_disk_leaves_whole_records_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "log"
    write = os.pwrite
    full = HEADER.size + room

    def limited(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: full - offset], offset)

    monkeypatch.setattr(os, "pwrite", limited)
    writer = AuditWriter(str(path))
    for number in range(10):
        writer.add(Kind.UNMAPPED, number, number)
    writer.close()
    writer.add(Kind.RESET)  # as a server that goes on would
    found = records(path)
    whole = room // RECORD.size
    if whole:
        assert [record[4] for record in found[:-1]] == list(range(whole - 1))
        assert found[-1][:5] == (Kind.END, Ending.ERROR, 0, 0, errno.ENOSPC)
    else:
        assert found == []


def test_a_bad_path_and_a_bad_limit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="No such file"):
        AuditWriter(str(tmp_path / "no" / "log"))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(AuditError, match="link"):
        AuditWriter(str(tmp_path / "link"))
    with pytest.raises(AuditError, match="at least 4096"):
        AuditWriter(str(tmp_path / "log"), 100)


def test_any_device_of_the_protocol_library_can_be_recorded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = AuditWriter(str(path))
    device = Device(ConfigSpace(0x1234, 0xC0DE, 0xFF0000), {})
    device.observer = AuditObserver(writer, device.observer)
    socket = str(tmp_path / "s")
    ram = SharedMemory(16 * PAGE, "ram")
    server = Server(device, socket)
    server.open()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    with Client(socket) as client:
        client.negotiate()
        client.dma_map(0, 16 * PAGE, descriptor=ram.fd)
        client.device_info()
        client.dma_map(0x10_0000, PAGE, flags=1, descriptor=ram.fd, offset=3 * PAGE)
        client.dma_map(0x20_0000, PAGE)
        client.dma_unmap(0x10_0000, PAGE)
        client.dma_unmap(0x50_0000, PAGE)  # nothing is there
        client.reset()
    wait_for(lambda: not len(device.dma))
    server.stop()
    thread.join(LIMIT)
    ram.close()
    writer.close()
    assert records(path) == [
        (Kind.CONNECTED, 0, 0, 0, 0, 0, 0),
        (Kind.MAPPED, 3, 1, 0, 0, 16 * PAGE - 1, 0),
        (Kind.DESCRIBED, 0, 0, 0, 0, 0, 0),
        (Kind.MAPPED, 1, 1, 0, 0x10_0000, 0x10_0FFF, 3 * PAGE),
        (Kind.MAPPED, 3, 0, 0, 0x20_0000, 0x20_0FFF, 0),
        (Kind.UNMAPPED, 0, 0, 0, 0x10_0000, 0x10_0FFF, 0),
        (Kind.RESET, 0, 0, 0, 0, 0, 0),
        (Kind.DISCONNECTED, 0, 0, 0, 0, 0, 0),
        (Kind.END, 0, 0, 0, 0, 0, 0),
    ]
