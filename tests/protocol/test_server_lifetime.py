"""The socket, clients that come and go, and the end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvfio_user import (
    Client,
    ConfigSpace,
    ConnectionLost,
    Device,
    LocalProtocolError,
    Server,
    ServerError,
)

from .rig import Raw, Rig, RigMaker, open_descriptors


def make_server(path: Path) -> Server:
    return Server(Device(ConfigSpace(1, 2, 0), {}), str(path))


class TestSocket:
    def test_is_private(self, tmp_path: Path) -> None:
        mask = os.umask(0)
        try:
            with make_server(tmp_path / "s") as server:
                assert stat.S_IMODE(os.lstat(server.path).st_mode) == 0o600
        finally:
            os.umask(mask)
        assert not list(tmp_path.iterdir())

    def test_a_stale_one_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        (tmp_path / "s.lock").touch()
        with make_server(path):
            socket.socket(socket.AF_UNIX).close()

    def test_a_live_server_is_not_disturbed(self, rig: Rig) -> None:
        with Client(rig.path) as client:
            client.negotiate()
            with pytest.raises(ServerError, match="another server is listening at"):
                make_server(Path(rig.path)).open()
            assert client.device_info()[1] == 9

    def test_a_live_server_does_not_even_see_a_connection(self, rig: Rig) -> None:
        with pytest.raises(ServerError, match="another server is listening at"):
            make_server(Path(rig.path)).open()
        with Client(rig.path) as client:
            client.negotiate()
            assert len(rig.log.named("client_connected")) == 1

    def test_a_foreign_server_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as foreign:
            foreign.bind(str(path))
            foreign.listen(1)
            with pytest.raises(ServerError, match="another server"):
                make_server(path).open()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    @pytest.mark.parametrize("kind", ["file", "symlink", "directory"])
    def test_anything_else_there_is_left_alone(self, tmp_path: Path, kind: str) -> None:
        path, other = tmp_path / "s", tmp_path / "other"
        if kind == "symlink":
            path.symlink_to(other)
        elif kind == "file":
            path.write_text("precious")
        else:
            path.mkdir()
        with pytest.raises(ServerError, match="is no socket"):
            make_server(path).open()
        assert path.is_symlink() or path.exists()
        assert not other.exists()

    def test_the_lock_is_not_opened_through_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "s.lock").symlink_to(tmp_path / "other")
        with pytest.raises(ServerError):
            make_server(tmp_path / "s").open()
        assert not (tmp_path / "other").exists()

    def test_a_path_that_is_too_long_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ServerError):
            make_server(tmp_path / ("x" * 120)).open()
        assert not list(tmp_path.iterdir())


class TestClients:
    def test_come_one_after_another(self, rig: Rig) -> None:
        for _ in range(20):
            with Client(rig.path) as client:
                client.negotiate()
                assert client.region_read(2, 0, 4) == bytes(4)

    def test_a_second_one_is_refused_at_once(self, rig: Rig) -> None:
        with Client(rig.path) as first:
            first.negotiate()
            second = Raw(rig.path)
            assert second.at_end()
            second.close()
            assert first.device_info()[1] == 9

    def test_a_silent_one_is_dropped_and_others_are_served(self, make_rig: RigMaker) -> None:
        rig = make_rig(handshake_seconds=0.2)
        silent = Raw(rig.path)
        silent.send(b"\x07")
        assert silent.at_end()
        silent.close()
        with Client(rig.path) as client:
            client.negotiate()

    def test_a_trickle_does_not_extend_the_handshake(self, make_rig: RigMaker) -> None:
        rig = make_rig(handshake_seconds=0.2)
        slow = Raw(rig.path)
        slow.send(struct.pack("=HHIII", 1, 1, 4000, 0, 0))
        slow.socket.settimeout(0.02)
        ended = False
        while not ended:
            try:
                slow.send(b"x")  # each within the limit, all of them not
                ended = slow.at_end()
            except TimeoutError:
                continue
            except BrokenPipeError:  # the end came just before the send
                ended = True
        slow.close()
        with Client(rig.path) as client:
            client.negotiate()

    def test_leave_nothing_behind(self, rig: Rig) -> None:
        """Client Disconnection: memory unmapped, eventfds closed, state kept."""
        with Client(rig.path) as client:
            client.negotiate()
            eventfd = os.eventfd(0)
            client.assign_eventfds(2, 0, [eventfd])
            os.close(eventfd)
            memory = os.memfd_create("ram")
            os.ftruncate(memory, 1 << 20)
            client.dma_map(0, 1 << 20, descriptor=memory)
            os.close(memory)
            client.region_write(2, 0, b"kept")
        assert rig.observer.gone.wait(30)
        assert len(rig.device.dma) == 0
        with Client(rig.path) as client:
            client.negotiate()
            assert client.region_read(2, 0, 4) == b"kept"
        assert rig.observer.events.count(("connected",)) >= 1

    def test_disconnecting_anywhere_in_a_message_costs_nothing(self, rig: Rig) -> None:
        message = bytes.fromhex("0700 0400 20000000 00000000 00000000".replace(" ", ""))
        for cut in range(len(message)):
            raw = Raw(rig.path)
            raw.negotiate()
            raw.send(message[:cut] or b"\x07")
            raw.close()
        with Client(rig.path) as client:
            client.negotiate()

    def test_a_flood_without_reading_loses_nothing(self, rig: Rig) -> None:
        """Its answers fill the socket, then its requests do; nothing else is kept."""
        raw = Raw(rig.path)
        raw.negotiate()
        message = struct.pack("=HHIII", 1, 9, 32, 0, 0) + struct.pack("=QII", 0, 3, 0x1000)
        sent = 0
        raw.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                # Whole messages only: a stalled send leaves no part behind.
                sent += raw.socket.send(message)
        assert sent % len(message) == 0
        raw.socket.settimeout(30)
        for _ in range(sent // len(message)):
            assert raw.reply()[3] == 0
        assert raw.ask(13)[0] == 0
        raw.close()

    def test_of_two_devices_in_one_process_see_only_their_own(self, make_rig: RigMaker) -> None:
        rigs = [make_rig(), make_rig()]
        memories = [os.memfd_create(f"vm{n}") for n in range(2)]
        with Client(rigs[0].path) as first, Client(rigs[1].path) as second:
            for n, client in enumerate((first, second)):
                client.negotiate()
                os.write(memories[n], bytes([n + 1]) * 4096)
                client.dma_map(n << 20, 4096, descriptor=memories[n])
            for n, rig in enumerate(rigs):
                assert rig.device.dma.read(n << 20, 1) == bytes([n + 1])
                assert rig.device.dma.find((1 - n) << 20) is None
            first.reset()
            assert ("reset",) not in rigs[1].observer.events
        for memory in memories:
            os.close(memory)


FLOOD = """
import socket, struct, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(struct.pack("=HHIIIHH", 0, 1, 20, 0, 0, 0, 0))
peer.recv(4096)
if sys.argv[2] == "flood":
    peer.setblocking(False)
    message = struct.pack("=HHIIIQII", 1, 9, 32, 0, 0, 0, 3, 0x1000)
    try:
        while True:
            peer.send(message)
    except BlockingIOError:
        pass
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def stopped_client(path: str, behaviour: str) -> Iterator[None]:
    """A process that shook hands, and was then stopped as by Ctrl-Z."""
    command = [sys.executable, "-c", FLOOD, path, behaviour]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield
        process.kill()


class TestStoppedClients:
    def test_others_are_refused_at_once_and_stop_works(self, make_rig: RigMaker) -> None:
        rig = make_rig()
        with stopped_client(rig.path, "idle"):
            second = Raw(rig.path)
            assert second.at_end()
            second.close()
            rig.server.stop()
            rig.thread.join()

    def test_one_that_takes_no_answers_is_given_up(
        self, make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyvfio_user.channel.SEND_LIMIT", 0.2)
        rig = make_rig()
        with stopped_client(rig.path, "flood"):
            assert rig.observer.gone.wait(30)
            with Client(rig.path) as client:
                client.negotiate()
                assert client.region_read(2, 0, 4) == bytes(4)


class TestInherited:
    """Backend Program Conventions: --fd=FDNUM."""

    def serve(self, descriptor: int) -> tuple[Server, threading.Thread]:
        server = Server(Device(ConfigSpace(1, 2, 0), {}), descriptor=descriptor)
        server.open()
        thread = threading.Thread(target=server.serve)
        thread.start()
        return server, thread

    def test_a_listening_socket_serves_many_and_stays_its_owners(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as owner:
            owner.bind(path)
            owner.listen()
            server, thread = self.serve(os.dup(owner.fileno()))
            for _ in range(2):
                with Client(path) as client:
                    client.negotiate()
                    assert client.device_info()[1] == 9
            server.stop()
            thread.join()
            assert os.path.exists(path)
            with socket.socket(socket.AF_UNIX) as late:
                late.connect(path)

    def test_a_connected_socket_serves_its_client(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        os.set_inheritable(theirs.fileno(), True)
        server, thread = self.serve(theirs.detach())
        ours.sendall(struct.pack("=HHIIIHH", 0, 1, 20, 0, 0, 0, 0))
        assert struct.unpack_from("=HHIII", ours.recv(4096))[:2] == (0, 1)
        ours.close()
        thread.join()
        server.stop()

    def test_a_connected_socket_can_be_stopped(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours:
            server, thread = self.serve(theirs.detach())
            server.stop()
            thread.join()
            assert ours.recv(1) == b""

    def test_anything_else_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        before = open_descriptors()
        with (
            open(tmp_path / "f", "wb") as file,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET) as internet,
            socket.socket(socket.AF_UNIX) as unconnected,
        ):
            for other in (file, datagrams, internet, unconnected):
                server = Server(Device(ConfigSpace(1, 2, 0), {}), descriptor=other.fileno())
                with pytest.raises(ServerError, match="descriptor"):
                    server.open()
                os.fstat(other.fileno())
        assert open_descriptors() == before

    @pytest.mark.parametrize("places", [{}, {"path": "/x", "descriptor": 3}])
    def test_there_is_one_place(self, places: dict[str, Any]) -> None:
        with pytest.raises(LocalProtocolError):
            Server(Device(ConfigSpace(1, 2, 0), {}), **places)


class TestStop:
    def test_answers_what_has_come_then_hangs_up(self, make_rig: RigMaker) -> None:
        rig = make_rig()
        with Client(rig.path) as client:
            client.negotiate()
            client.device_info()
            rig.server.stop()
            rig.thread.join()
            with pytest.raises(ConnectionLost):
                client.pump()

    def test_leaves_no_unread_bytes_that_would_reset_the_client(self, make_rig: RigMaker) -> None:
        """ECONNRESET makes QEMU abort."""
        rig = make_rig()
        raw = Raw(rig.path)
        raw.negotiate()
        gate = threading.Event()
        rig.registers.gate = gate
        for _ in range(50):
            raw.message(9, (0).to_bytes(8, "little") + b"\x02\0\0\0\x04\0\0\0")
        rig.server.stop()
        gate.set()
        rig.thread.join()
        for _ in range(50):
            assert raw.reply()[3] == 0
        assert raw.at_end()
        raw.close()

    def test_giving_a_client_up_does_not_reset_it_either(self, rig: Rig, raw: Raw) -> None:
        """A broken message, and more behind it than one receive takes."""
        rig.registers.gate = threading.Event()
        raw.message(9, struct.pack("=QII", 0, 2, 4))
        raw.message(13, size=0)
        raw.send(bytes(80_000))
        rig.registers.gate.set()
        assert raw.reply()[3] == 0
        assert raw.at_end()

    def test_works_without_a_client(self, make_rig: RigMaker) -> None:
        rig = make_rig()
        rig.server.stop()
        rig.thread.join()
        assert not os.path.exists(rig.path)

    def test_works_from_a_signal_handler(self, tmp_path: Path) -> None:
        script = """
import signal, sys
from pyvfio_user import ConfigSpace, Device, Server
server = Server(Device(ConfigSpace(1, 2, 0), {}), sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: server.stop())
server.open()
print("ready", flush=True)
server.serve()
print("stopped", flush=True)
"""
        for connect in (False, True):
            path = str(tmp_path / f"s{connect}")
            command = [sys.executable, "-c", script, path]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                client = Client(path) if connect else None
                if client:
                    client.negotiate()
                process.send_signal(signal.SIGTERM)
                assert process.stdout.readline() == "stopped\n"
                assert process.wait() == 0
                if client:
                    client.close()
