"""A trace of messages: what was said, in order, and read back."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from pyvfio_user import (
    Bar,
    Client,
    ConfigSpace,
    Device,
    RemoteProtocolError,
    Server,
    ServerError,
    TraceError,
    read_trace,
)
from pyvfio_user.__main__ import main
from pyvfio_user.trace import KEPT, Kind, TraceWriter

from .rig import Log, Raw


def converse(tmp_path: Path, name: str = "trace") -> Path:
    """Trace a short conversation."""
    trace = tmp_path / name
    device = Device(ConfigSpace(1, 2, 3), {0: Bar(0x1000)})
    server = Server(device, str(tmp_path / "s"), trace=str(trace))
    server.open()
    thread = threading.Thread(target=server.serve)
    thread.start()
    with Client(server.path) as client:
        client.negotiate()
        memory = os.memfd_create("guest")
        os.ftruncate(memory, 0x1000)
        client.dma_map(0x10000, 0x1000, descriptor=memory)
        os.close(memory)
        client.region_write(0, 8, b"\1\2\3\4", posted=True)
        with pytest.raises(RemoteProtocolError):
            client.region_read(1, 0, 4)
        client.region_read(0, 0, 0x1000)
    raw = Raw(server.path)
    raw.negotiate()
    raw.ask(99, b"?")
    raw.close()
    server.stop()
    thread.join()
    return trace


def test_says_what_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = converse(tmp_path)
    assert main(["trace", str(trace)]) == 0
    times, lines = [], []
    for line in capsys.readouterr().out.splitlines():
        times.append(float(line[:12]))
        lines.append(" ".join(line[12:].split()))
    assert times == sorted(times)
    assert lines[0] == "client connected"
    assert lines[1].startswith("-> 0 VERSION major=0x0 minor=0x0 data=7b226361")
    assert lines[3:10] == [
        "-> 1 DMA_MAP argsz=0x20 flags=0x3 offset=0x0 address=0x10000 size=0x1000"
        " with 1 descriptor",
        "<- 1 DMA_MAP reply",
        "-> 2 REGION_WRITE (no reply wanted) offset=0x8 region=0x0 count=0x4 data=01020304",
        "-> 3 REGION_READ offset=0x0 region=0x1 count=0x4",
        "<- 3 REGION_READ reply error EINVAL",
        "-> 4 REGION_READ offset=0x0 region=0x0 count=0x1000",
        "<- 4 REGION_READ reply offset=0x0 region=0x0 count=0x1000"
        f" data={'00' * (KEPT - 16)}... and {0x1010 - KEPT} bytes",
    ]
    assert lines[10:12] == ["client disconnected", "client connected"]
    assert lines[-3:] == [
        "-> 7 command 99 data=3f",
        "<- 7 command 99 reply error ENOSYS",
        "client disconnected",
    ]


def test_is_private_and_goes_through_no_link(tmp_path: Path) -> None:
    trace = converse(tmp_path)
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    server = Server(Device(ConfigSpace(1, 2, 3), {}), str(tmp_path / "s"), trace=str(link))
    with pytest.raises(ServerError, match="cannot write the trace"):
        server.open()
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "s").exists()


def test_cut_short_it_gives_what_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = converse(tmp_path)
    whole = list(read_trace(trace))
    data = trace.read_bytes()
    for end in range(len(data) - 1, len(data) - 200, -7):
        trace.write_bytes(data[:end])
        read = []
        try:
            for record in read_trace(trace):
                read.append(record)
        except TraceError:
            pass
        else:
            assert len(read) < len(whole)
        assert read == whole[: len(read)]
        assert len(read) >= len(whole) - 8
    trace.write_bytes(data[:-1])
    assert main(["trace", str(trace)]) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == len(whole) - 1
    assert "ends within a record" in printed.err


def test_another_file_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    assert main(["trace", str(tmp_path / "x")]) == 1
    assert "is no trace" in capsys.readouterr().err


def test_a_damaged_one_ends_with_an_error(tmp_path: Path) -> None:
    trace = converse(tmp_path)
    data = bytearray(trace.read_bytes())
    for position in range(20, len(data)):
        damaged = data.copy()
        damaged[position] ^= 0xFF
        trace.write_bytes(damaged)
        try:
            records = [str(record) for record in read_trace(trace)]
        except TraceError:
            continue
        assert records


def test_a_full_disk_ends_the_trace_and_nothing_else(tmp_path: Path) -> None:
    log = Log()
    trace = TraceWriter(str(tmp_path / "trace"), log)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for _ in range(5):
            trace.sent(bytes(16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trace.sent(bytes(16))
    trace.close()
    assert len(log.named("trace_ended")) == 1
    records = read_trace(tmp_path / "trace")
    assert [next(records).kind for _ in range(2)] == [Kind.SENT, Kind.SENT]
    with pytest.raises(TraceError):
        next(records)


def test_it_ends_before_it_passes_its_limit(tmp_path: Path) -> None:
    log = Log()
    trace = TraceWriter(str(tmp_path / "trace"), log, limit=1000)

    def send() -> None:
        for _ in range(100):
            trace.sent(bytes(16 + 64))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.close()
    assert [event["error"] for event in log.named("trace_ended")] == [
        "[Errno 27] the trace has reached its limit"
    ]
    records = list(read_trace(tmp_path / "trace"))  # whole ones
    size = (tmp_path / "trace").stat().st_size
    assert 1000 - size // len(records) < size <= 1000


def test_messages_of_the_device_are_there(tmp_path: Path) -> None:
    device = Device(ConfigSpace(1, 2, 3), {})
    server = Server(device, str(tmp_path / "s"), trace=str(tmp_path / "trace"))
    server.open()
    thread = threading.Thread(target=server.serve)
    thread.start()
    raw = Raw(server.path)
    raw.negotiate()
    worker = threading.Thread(target=device.message_dma.write, args=(0x1000, b"data"))
    worker.start()
    message_id, command, _, _, _ = raw.reply()
    raw.message(
        command,
        (0x1000).to_bytes(8, "little") + bytes([4, 0, 0, 0]),
        message_id=message_id,
        flags=1,
    )
    worker.join()
    raw.close()
    server.stop()
    thread.join()
    found = [(record.kind, record.command) for record in read_trace(tmp_path / "trace")]
    assert found[3:5] == [(Kind.SENT, 12), (Kind.RECEIVED, 12)]
