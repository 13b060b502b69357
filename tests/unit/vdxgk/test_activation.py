"""`vdxgk serve` at a socket that somebody else made: a client that came first is served."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvfio_user import Client
from tests.waiting import wait_for
from vdxgk.control import ask

SERVE = (sys.executable, "-m", "vdxgk", "serve", "--socket")
# The variable names the process that is meant, so it is set by the one that becomes it.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, sys.argv[2:])
"""
AS_ANOTHER = AS_SYSTEMD.replace("os.getpid()", "1")
LIMIT = 30


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def start(
    descriptor: int, path: Path, *options: str, starter: str = AS_SYSTEMD
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", starter, str(descriptor), *SERVE, str(path), *options],
        pass_fds=[descriptor],
        stderr=subprocess.PIPE,
        text=True,
    )


def complaint(descriptor: int, path: Path, starter: str = AS_SYSTEMD) -> str:
    process = start(descriptor, path, starter=starter)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("Error: ")
    return said


@pytest.mark.parametrize("options", [(), ("--sandbox",)], ids=["plain", "sandbox"])
def test_clients_that_came_before_the_server(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "gpu.sock"
    with listening(path) as listener:
        for _ in range(2):  # the one who listens goes on after each of them
            with Client(str(path)) as client:
                process = start(listener.fileno(), path, *options)
                client.negotiate()
                assert ask(f"{path}.control", "query-status")["connected"]
            process.terminate()
            assert process.wait(LIMIT) == 0
            assert process.stderr
            process.stderr.close()
            assert [each.name for each in tmp_path.iterdir()] == ["gpu.sock"]


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="no systemd-socket-activate on this host",
)
def test_systemd_starts_it_for_a_client(tmp_path: Path) -> None:
    path = tmp_path / "gpu.sock"
    command = ["systemd-socket-activate", "-l", str(path), *SERVE, str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(path.is_socket, "systemd listens")
        assert not Path(f"{path}.control").exists()
        with Client(str(path)) as client:
            client.negotiate()
            assert ask(f"{path}.control", "query-status")["connected"]
    finally:
        process.send_signal(signal.SIGTERM)  # it has become the server
        assert process.wait(LIMIT) == 0


def test_variables_for_another_process_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gpu.sock"
    with listening(path) as listener:
        said = complaint(listener.fileno(), path, AS_ANOTHER)
    assert "another server is listening" in said


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gpu.sock"
    with listening(tmp_path / "other") as elsewhere:
        said = complaint(elsewhere.fileno(), path)
    assert f"{tmp_path}/other, which is no --socket" in said
    assert str(path) in said
    one, other = socket.socketpair()
    with one, other:
        assert "is a connection: Accept=no" in complaint(one.fileno(), path)
    with socket.create_server(("127.0.0.1", 0)) as inet:
        assert "is no AF_UNIX stream socket" in complaint(inet.fileno(), path)
    with open(os.devnull) as nothing:
        assert "is no socket" in complaint(nothing.fileno(), path)
    assert [each.name for each in tmp_path.iterdir()] == ["other"]
