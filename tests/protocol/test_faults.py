"""System calls of the real server fail: errors where they belong, and the next client is served.

docs/recovery.md has the table; a test compares.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvfio_user import Client, RemoteProtocolError, VfioUserError, wire
from pyvfio_user.trace import Kind, Record, TraceError, read_trace
from tests.footprint import Footprint
from tests.unit.vdxgk.raw_guest import RawGuest
from tests.unit.vdxgk.vnc.viewer import RAW, TestViewer
from tests.unit.vdxgk.world import mdl
from tests.waiting import wait_for
from vdxgk import function
from vdxgk.channel import layout
from vdxgk.control import ControlError, ask
from vdxgk.engine import word_sequence
from vdxgk.memory.ntstatus import NtStatus
from vdxgk.memory.pages import PAGE_SIZE
from vdxgk_lab.audit import log as audit_log

from .fault_injection import ALWAYS, SHORT, FaultyServer, build, faulty_server
from .test_interrupts import EVENTFD, MSIX, UNMASK, payload

SIZE = 64 * PAGE_SIZE
PLAIN = 0x4000_0000
SET_IRQS = 8
POSITIONS = 2
"""Of a call in a client's life that are tried; all of them with --long."""

AT_THE_END = ("shutdown", "madvise", "close")
"""Calls that the server makes when a client has gone."""
INTERRUPTED = (errno.EINTR, SHORT)
"""What Python's PEP 475 asks for again, and what is continued."""
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS, errno.EAGAIN)
CANNOT_ACCEPT = (errno.EMFILE, errno.ECONNABORTED, errno.EINTR)
DISK = (errno.EIO, errno.ENOSPC, *INTERRUPTED)


@dataclass(frozen=True)
class Case:
    """A system call, part of the name of what it is about, and how it fails."""

    call: str
    file: str
    errors: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.call} {self.file}".strip()


SERVING = (
    Case("accept4", "gpu.sock", CANNOT_ACCEPT),
    Case("accept4", "gpu.control", CANNOT_ACCEPT),
    Case("accept4", "gpu.vnc", CANNOT_ACCEPT),
    Case("poll", "gpu.sock", (errno.ENOMEM, errno.EINTR)),
    Case("poll", "gpu.control", (errno.EINTR,)),
    Case("poll", "gpu.vnc", (errno.ENOMEM, errno.EINTR)),
    Case("setsockopt", "gpu.sock", (errno.ENOMEM,)),
    Case("recvmsg", "gpu.sock", (errno.ENOMEM, errno.ECONNRESET, *INTERRUPTED)),
    Case("recvmmsg", "gpu.sock", (errno.ENOSYS, errno.ENOMEM, *INTERRUPTED)),
    Case("sendto", "gpu.sock", (*GONE, *INTERRUPTED)),
    Case("sendmsg", "gpu.sock", (*GONE, *INTERRUPTED)),
    Case("shutdown", "gpu.sock", (errno.ENOTCONN,)),
    Case("recvfrom", "gpu.control", (errno.ENOMEM, errno.ECONNRESET, *INTERRUPTED)),
    Case("sendto", "gpu.control", (*GONE, *INTERRUPTED)),
    Case("recvfrom", "gpu.vnc", (errno.ENOMEM, errno.ECONNRESET, *INTERRUPTED)),
    Case("sendto", "gpu.vnc", (*GONE, *INTERRUPTED)),
    Case("fstat", "memfd:", (errno.ESTALE,)),
    Case("fcntl", "memfd:", (errno.EIO,)),
    Case("fcntl", "[eventfd]", (errno.EIO,)),
    Case("mmap", "memfd:", (errno.ENOMEM, errno.ENODEV)),
    Case("madvise", "", (errno.ENOMEM, errno.EINVAL)),
    Case("pread64", "memfd:", DISK),
    Case("pwrite64", "memfd:", DISK),
    Case("close", "memfd:", (errno.EIO, errno.EINTR)),
    Case("close", "[eventfd]", (errno.EIO,)),
    Case("readlink", "/proc/self/fd", (errno.ENOENT,)),
    Case("epoll_create1", "", (errno.EMFILE,)),
    Case("eventfd2", "", (errno.EMFILE,)),
    Case("epoll_ctl", "[eventfd]", (errno.ENOSPC, errno.ENOMEM)),
    Case("epoll_wait", "", (errno.EINTR,)),
    Case("clone3", "", (errno.EAGAIN,)),
    Case("write", "server.log", (*DISK, errno.EPIPE)),
)
RECORDING = (
    Case("write", "/trace", DISK),
    Case("pwrite64", "/audit", DISK),
)
STARTING = (
    Case("socket", "", (errno.EMFILE,)),
    Case("fchmod", "", (errno.EPERM,)),
    Case("bind", "gpu.", (errno.ENOSPC,)),
    Case("listen", "gpu.", (errno.ENOBUFS,)),
    Case("openat", "/run/", (errno.EMFILE, errno.ENOSPC)),
    Case("flock", "gpu.", (errno.ENOLCK,)),
    Case("memfd_create", "", (errno.EMFILE, errno.ENOMEM)),
    Case("ftruncate", "memfd:", (errno.ENOSPC,)),
    Case("fcntl", "memfd:", (errno.EBUSY,)),
    Case("mmap", "memfd:", (errno.ENOMEM,)),
    Case("pipe2", "", (errno.EMFILE,)),
    Case("eventfd2", "", (errno.EMFILE,)),
    Case("clone3", "", (errno.EAGAIN,)),
    Case("write", "/run/", (errno.ENOSPC,)),
)
STOPPING = (
    Case("unlink", "", (errno.EACCES, errno.EROFS)),
    Case("close", "/trace", (errno.EIO, errno.ENOSPC)),
    Case("close", "/audit", (errno.EIO, errno.ENOSPC)),
)
TABLES = {
    "While it serves": SERVING,
    "What it writes down": RECORDING,
    "When it starts": STARTING,
    "When it ends": STOPPING,
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shim: Path) -> Iterator[FaultyServer]:
    """One server for all cases: what one leaves behind, the next ones meet."""
    # On a fast host a case says the same more than twenty times in a second, and then no
    # line would be left to fail.
    unlimited = ("--max-log-lines", "100000")
    with faulty_server(tmp_path_factory.mktemp("serving"), shim, unlimited) as server:
        everything(server)
        before = settled(server)
        yield server
        everything(server)
        after = settled(server)
        assert not after.excess(before), f"{before}, then {after}"


@pytest.fixture
def server(shared: FaultyServer) -> Iterator[FaultyServer]:
    yield shared
    shared.faults.disarm()
    assert shared.process.poll() is None, shared.log


# ---- what clients of all kinds do ---------------------------------------------------


def live(server: FaultyServer) -> None:
    """A guest's life: start, objects, DMA on every path, interrupts.  Raises if anything fails."""
    with closing(RawGuest(server.socket)) as guest:
        adapter = guest.start()
        made, runs = guest.create(bytes(mdl(adapter, SIZE)))
        adl, mappings = guest.live_list(made.adapter_object, SIZE)
        base = mappings[0][0]
        filled = guest.engine(op=layout.ENGINE_FILL, destination=base, size=SIZE, value=3, step=5)
        assert filled.status == 0
        words = word_sequence(3, 5, 0, SIZE)
        assert guest.bytes_of(runs) == words
        plain = os.memfd_create("plain")  # which may shrink, so it is read and written
        unmasked = os.eventfd(0)
        try:
            os.ftruncate(plain, SIZE)
            guest.client.dma_map(PLAIN, SIZE, descriptor=plain)
            copied = guest.engine(op=layout.ENGINE_COPY, source=base, destination=PLAIN, size=SIZE)
            assert (copied.status, copied.done) == (0, SIZE)
            read = guest.engine(op=layout.ENGINE_CRC32, source=PLAIN, size=SIZE)
            assert (read.status, read.result) == (0, zlib.crc32(words))
            fields = payload(EVENTFD | UNMASK, MSIX, 0, 1)
            assert guest.client.call(SET_IRQS, fields, (unmasked,)).error == 0
        finally:
            os.close(plain)
            os.close(unmasked)
        assert guest.free(made.adapter_object, adl, mappings) == 0
        guest.client.reset()


def look(server: FaultyServer) -> None:
    """A viewer gets a picture."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(server.vnc)

        def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                part = connection.recv(count - len(data))
                if not part:
                    raise ConnectionError("hung up")
                data += part
            return data

        viewer = TestViewer(exactly, connection.sendall)
        viewer.encodings(RAW)
        viewer.request(incremental=False)
        viewer.update()


def inquire(server: FaultyServer) -> None:
    """Somebody wants to know; twice, since the door has waited for the first long before."""
    for _ in range(2):
        assert ask(server.control, "query-status")["dma_bits"] == 32


def everything(server: FaultyServer) -> None:
    """Each door is used once.  Raises if anything fails."""
    live(server)
    inquire(server)
    look(server)


def use_of(case: Case) -> Callable[[FaultyServer], None]:
    """What makes a call."""
    uses = {"gpu.control": inquire, "gpu.vnc": look, "server.log": everything}
    return uses.get(case.file, live_and_go if case.call in AT_THE_END else live)


def settled(server: FaultyServer) -> Footprint:
    wait_for(lambda: is_idle(server), "the client's things go")
    return Footprint.of(server.process.pid)


def live_and_go(server: FaultyServer) -> None:
    live(server)
    wait_for(lambda: is_idle(server), "the client's things go")


def is_idle(server: FaultyServer) -> bool:
    status = ask(server.control, "query-status")
    return not status["connected"] and not status["guest_ram"]["bytes"]


def sweep(server: FaultyServer, case: Case, error: int, positions: int) -> int:
    """Let a call fail at places of a client's life; how many there are."""
    use = use_of(case)
    server.faults.arm(case.call, error, case.file, skip=ALWAYS)
    use(server)
    made = server.faults.passed
    places = range(made) if made <= positions else range(0, made, made // positions)
    for place in places:
        said = len(server.log)
        server.faults.arm(case.call, error, case.file, skip=place)
        with suppress(OSError, VfioUserError, ControlError, AssertionError, ValueError):
            use(server)
        server.faults.disarm()
        assert server.process.poll() is None, server.log
        use(server)
        assert not server.complaints(said), (place, server.complaints(said))
    everything(server)
    return made


# ---- while it serves ------------------------------------------------------------------


@pytest.mark.parametrize("case", SERVING, ids=str)
def test_while_it_serves(server: FaultyServer, case: Case, request: pytest.FixtureRequest) -> None:
    positions = 1 << 30 if request.config.getoption("--long") else POSITIONS
    for error in case.errors:
        assert sweep(server, case, error, positions), f"no {case} is ever made"


class TestAnswers:
    """What the one who asked hears, and what the log says."""

    def refused(self, server: FaultyServer, error: int, *, sealed: bool) -> None:
        said = len(server.log)
        memory = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(memory, SIZE)
            if sealed:
                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            with Client(server.socket) as client:
                client.negotiate()
                with pytest.raises(RemoteProtocolError) as refusal:
                    client.dma_map(PLAIN, SIZE, descriptor=memory)
                assert refusal.value.errno == error
                server.faults.disarm()
                client.dma_map(PLAIN, SIZE, descriptor=memory)
        finally:
            os.close(memory)
        line = server.log[said:]
        assert "DMA_MAP" in line
        assert os.strerror(error) in line

    @pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENODEV])
    def test_a_mapping_that_the_host_cannot_make(self, server: FaultyServer, error: int) -> None:
        server.faults.arm("mmap", error, "memfd:ram")
        self.refused(server, error, sealed=True)

    def test_a_file_that_has_gone(self, server: FaultyServer) -> None:
        server.faults.arm("fstat", errno.ESTALE, "memfd:ram")
        self.refused(server, errno.ESTALE, sealed=False)

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            ("epoll_create1", errno.EMFILE),
            ("eventfd2", errno.EMFILE),
            ("epoll_ctl", errno.ENOSPC),
            ("clone3", errno.EAGAIN),
        ],
    )
    def test_an_eventfd_that_cannot_be_watched(
        self, server: FaultyServer, call: str, error: int
    ) -> None:
        fields = payload(EVENTFD | UNMASK, MSIX, 0, 1)
        unmasked = os.eventfd(0)
        with Client(server.socket) as client:
            client.negotiate()
            server.faults.arm(call, error)
            assert client.call(SET_IRQS, fields, (unmasked,)).error == error
            server.faults.disarm()
            assert client.call(SET_IRQS, fields, (unmasked,)).error == 0
        os.close(unmasked)

    @pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
    @pytest.mark.parametrize("call", ["pread64", "pwrite64"])
    def test_a_file_that_fails_is_a_fault(
        self, server: FaultyServer, call: str, error: int
    ) -> None:
        plain = os.memfd_create("plain")
        os.ftruncate(plain, SIZE)
        with closing(RawGuest(server.socket)) as guest:
            guest.start()
            guest.client.dma_map(PLAIN, SIZE, descriptor=plain)
            server.faults.arm(call, error, "memfd:plain")
            copy = {"source": PLAIN, "destination": PLAIN + PAGE_SIZE, "size": 8}
            failed = guest.engine(op=layout.ENGINE_COPY, **copy)
            assert server.faults.hits == 1
            assert failed.status
            assert failed.fault & 0xFF == layout.FAULT_INACCESSIBLE
            assert guest.engine(op=layout.ENGINE_COPY, **copy).status == 0
        os.close(plain)

    def test_what_is_short_or_interrupted_goes_on(self, server: FaultyServer) -> None:
        """Call after call; nobody notices."""
        for call, file, calls in [
            ("recvmsg", "gpu.sock", 50),
            ("sendto", "gpu.sock", 20),
            ("sendmsg", "gpu.sock", 1),
            ("pread64", "memfd:", 20),
            ("pwrite64", "memfd:", 20),
        ]:
            for error in INTERRUPTED:
                server.faults.arm(call, error, file, count=calls)
                live(server)
                assert server.faults.hits == calls, call

    def test_descriptors_that_no_longer_fit(self, server: FaultyServer) -> None:
        """By the kernel itself: MSG_CTRUNC, and EMFILE from accept()."""
        settled(server)
        memory = os.memfd_create("ram")
        os.ftruncate(memory, SIZE)
        pid = server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with Client(server.socket) as client:
            client.negotiate()
            full = 1 + max(map(int, os.listdir(f"/proc/{pid}/fd")))
            spare = full - len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (full, limits[1]))
            try:
                refused = 0
                for number in range(spare + 2):
                    other = os.memfd_create("other")
                    os.ftruncate(other, SIZE)
                    fields = wire.DMA_MAP.pack(wire.DMA_MAP.size, 3, 0, number * SIZE, SIZE)
                    answer = client.call(wire.Command.DMA_MAP, fields, (other,))
                    assert answer.error in (0, errno.EMFILE)
                    refused += answer.error == errno.EMFILE
                    os.close(other)
                assert refused
                said = len(server.log)
                with socket.socket(socket.AF_UNIX) as waiting:
                    waiting.connect(server.control)
                    wait_for(lambda: "cannot accept now" in server.log[said:], "the log says so")
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            assert client.device_info()[1] == 9
        os.close(memory)
        everything(server)


@pytest.mark.parametrize("door", ["gpu.sock", "gpu.control", "gpu.vnc"])
def test_without_descriptors_nobody_spins(server: FaultyServer, door: str) -> None:
    """A try a second, not a million: a hundred times as many would be too few to tell."""
    server.faults.arm("accept4", errno.EMFILE, door, count=ALWAYS)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(server.folder / door))
        wait_for(lambda: server.faults.hits >= 2, "it tries again")
        began, first = time.monotonic(), server.faults.hits
        wait_for(lambda: server.faults.hits > first, "and again")
        tries = server.faults.hits - first
        assert tries <= 2 + (time.monotonic() - began), "it spins"
    server.faults.disarm()


def test_the_next_guest_sees_nothing_of_the_last(server: FaultyServer) -> None:
    """Where the host does not take pages back, they are overwritten."""
    with Client(server.socket) as client:
        client.negotiate()
        info = client.region_info(function.FRAMEBUFFER_BAR)
        assert info.descriptor is not None
        os.pwrite(info.descriptor, b"secret" * 1000, 12345)
        server.faults.arm("madvise", errno.EINVAL, count=ALWAYS)
    settled(server)
    assert server.faults.hits
    server.faults.disarm()
    assert not any(os.pread(info.descriptor, info.size, 0))
    os.close(info.descriptor)


# ---- what it writes down ---------------------------------------------------------------


@pytest.fixture(scope="module")
def make_recording(
    tmp_path_factory: pytest.TempPathFactory, shim: Path
) -> Callable[[], AbstractContextManager[FaultyServer]]:
    @contextmanager
    def make() -> Iterator[FaultyServer]:
        folder = tmp_path_factory.mktemp("recording")
        options = ["--trace", str(folder / "trace"), "--audit", str(folder / "audit")]
        with faulty_server(folder, shim, options) as server:
            yield server

    return make


@pytest.mark.parametrize("case", RECORDING, ids=str)
def test_what_it_writes_down(
    make_recording: Callable[[], AbstractContextManager[FaultyServer]], case: Case
) -> None:
    """A record ends, and says so if it can; guests go on."""
    for error in case.errors:
        with make_recording() as server:
            live(server)
            audit, trace = server.folder.parent / "audit", server.folder.parent / "trace"
            server.faults.arm(case.call, error, case.file)
            live(server)
            wait_for(lambda: server.faults.hits > 0, "it fails")
            everything(server)
            assert not server.complaints()
        ended = error not in INTERRUPTED
        if case.call == "write":
            # A short write is the file system's way to say that it is full.
            ended = error != errno.EINTR
            assert ("trace_ended" in server.log) is ended
            records: list[Record] = []
            with suppress(TraceError):
                records.extend(read_trace(trace))
            assert records[0].kind is Kind.CONNECTED
        else:
            assert ("cannot be written any more" in server.log) is ended
            assert audit_log.read(audit)


def test_a_log_on_a_full_disk_costs_lines_only(tmp_path: Path) -> None:
    path = str(tmp_path / "gpu.sock")
    ready, theirs = os.pipe()
    command = [sys.executable, "-m", "vdxgk", "serve", "--socket", path, "--ready-fd", str(theirs)]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(command, stderr=full, pass_fds=[theirs])
    os.close(theirs)
    assert os.read(ready, 1)
    os.close(ready)
    for _ in range(2):
        with closing(RawGuest(path)) as guest:
            guest.start()
    process.terminate()
    assert process.wait() == 0


def test_lost_lines_are_told_of(server: FaultyServer) -> None:
    said = len(server.log)
    server.faults.arm("write", errno.ENOSPC, "server.log", count=2)
    everything(server)
    assert server.faults.hits == 2
    everything(server)
    assert "2 lines of this log could not be written" in server.log[said:]


def test_a_command_that_the_host_cannot_carry_out_is_completed(tmp_path: Path, shim: Path) -> None:
    """The first one over scattered pages loads a module."""
    with faulty_server(tmp_path, shim) as server, closing(RawGuest(server.socket)) as guest:
        made, _ = guest.create(bytes(mdl(guest.start(), SIZE)))
        _, mappings = guest.live_list(made.adapter_object, SIZE)
        read = {"op": layout.ENGINE_CRC32, "source": mappings[0][0], "size": SIZE}
        server.faults.arm("openat", errno.EMFILE, "page_moves", count=ALWAYS)
        assert guest.engine(**read).status == NtStatus.INSUFFICIENT_RESOURCES
        assert server.faults.hits
        server.faults.disarm()
        assert "a command was given up" in server.log
        assert guest.engine(**read).status == 0


# ---- when it starts, and when it ends -----------------------------------------------------


def serves(server: FaultyServer) -> bool:
    try:
        with Client(server.socket) as client:
            client.negotiate()
    except (OSError, VfioUserError):
        return False
    return True


@pytest.mark.parametrize("case", STARTING, ids=str)
def test_when_it_starts(
    tmp_path: Path, shim: Path, case: Case, request: pytest.FixtureRequest
) -> None:
    """It says what it lacks and where, and leaves nothing behind; wherever that happens."""
    longest = 1 << 30 if request.config.getoption("--long") else 1
    tried = 0
    for error in case.errors:
        for place in range(longest):
            folder = tmp_path / f"{error}-{place}"
            folder.mkdir()
            run = folder / "run"
            options = ["--trace", str(run / "trace"), "--audit", str(run / "audit")]
            server = FaultyServer(folder, shim, options)
            server.faults.arm(case.call, error, case.file, skip=place)
            server.start()
            if server.ready() and serves(server) and not server.faults.hits:
                assert server.stop() == 0
                break
            tried += 1
            assert server.wait() == 1, server.log
            assert "Error: " in server.log
            assert os.strerror(error) in server.log or "new thread" in server.log
            assert not server.complaints(), server.log
            # An empty lock file disturbs nobody, and may be another's where nothing can be locked.
            left = {path.name for path in run.iterdir()} - {"trace", "audit", "gpu.sock.lock"}
            assert not left, (place, left)
    assert tried


@pytest.mark.parametrize("case", STOPPING, ids=str)
def test_when_it_ends(tmp_path: Path, shim: Path, case: Case) -> None:
    for error in case.errors:
        folder = tmp_path / str(error)
        folder.mkdir()
        options = ["--trace", str(folder / "trace"), "--audit", str(folder / "audit")]
        server = FaultyServer(folder, shim, options).start()
        assert server.ready()
        everything(server)
        server.faults.arm(case.call, error, case.file, count=ALWAYS)
        assert server.stop() == 0, server.log
        assert server.faults.hits
        assert not server.complaints(), server.log


# ---- the page -------------------------------------------------------------------------------


def test_the_page_has_these_cases_and_no_others() -> None:
    page = (Path(__file__).parents[2] / "docs/recovery.md").read_text()
    for heading, cases in TABLES.items():
        section = page.partition(f"### {heading}\n")[2].partition("\n##")[0]
        told: dict[str, set[str]] = {}
        calls: list[str] = []
        for line in section.splitlines():
            if line.startswith("| ") and not line.startswith(("| call", "| ---")):
                names, words = line.split("|")[1:3]
                calls = re.findall(r"`(\w+)`", names) or calls  # or the row above's
                for call in calls:
                    told.setdefault(call, set()).update(re.findall(r"E[A-Z0-9]+|short", words))
        made: dict[str, set[str]] = {}
        for case in cases:
            failures = {errno.errorcode[e] if e else "short" for e in case.errors}
            made.setdefault(case.call, set()).update(failures)
        assert told.keys() == made.keys(), heading
        for call, failures in made.items():
            # Calls that share a row need not each fail in all of its ways.
            assert failures <= told[call], call
        assert set().union(*told.values()) == set().union(*made.values()), heading


def test_no_call_of_a_served_device_is_without_a_case(server: FaultyServer) -> None:
    everything(server)
    cases = {case.call for table in TABLES.values() for case in table}
    # Python's own files; and a full eventfd is test_interrupts.py's.
    harmless = {"read", "eventfd_write"}
    assert server.faults.seen() - cases - harmless == set()
