"""Clients that ask and ask, and take no answers: what the server's memory comes to."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvfio_user import Client
from tests.footprint import resident
from vdxgk.control import ask

SLACK = 16 << 10
"""KiB: a picture for a viewer, and some answers of 1 MiB."""
STALLED = 0.5
"""Seconds after which the server takes no more, since nobody takes its answers."""
ROUNDS = 20_000


@dataclass(frozen=True)
class Flood:
    """What is said to a door: first by turns with the server, then without end."""

    door: str
    greetings: tuple[bytes, ...]
    message: bytes


def message(command: int, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack("=HHIII", 1, command, 16 + len(payload), flags, 0) + payload


NEGOTIATE = (message(1, struct.pack("=HH", 0, 0)),)
VNC = (b"RFB 003.008\n", b"\1", b"\1")
READ = 9
CONFIG, FRAMEBUFFER = 7, 0
FLOODS = {
    "short reads": Flood("", NEGOTIATE, message(READ, struct.pack("=QII", 0, CONFIG, 256))),
    "reads of 1 MiB": Flood(
        "", NEGOTIATE, message(READ, struct.pack("=QII", 0, FRAMEBUFFER, 1 << 20))
    ),
    "mistakes": Flood("", NEGOTIATE, message(READ, struct.pack("=QII", 0, 99, 4))),
    "an endless line": Flood(".control", (), b"x"),
    "questions": Flood(".control", (), b'{"execute":"query-status"}\n'),
    "screenshots": Flood(".control", (), b'{"execute":"screenshot"}\n'),
    "pictures": Flood(".vnc", VNC, struct.pack(">BBHHHH", 3, 0, 0, 0, 1280, 800)),
    "an endless text": Flood(".vnc", VNC, struct.pack(">BxxxI", 6, 0xFFFFFFFF)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Process and socket."""
    path = str(tmp_path_factory.mktemp("flooded") / "s")
    ready, theirs = os.pipe()
    doors = ["--socket", path, "--vnc", f"{path}.vnc", "--ready-fd", str(theirs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vdxgk", "serve", *doors],
        pass_fds=[theirs],
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    assert os.read(ready, 1)
    os.close(ready)
    assert ask(f"{path}.control", "screenshot", timeout=60)["png"]  # what looking needs is there
    yield process.pid, path
    process.terminate()
    assert process.wait(60) == 0
    assert not Path(path).exists()


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_held_up_and_costs_little(server: tuple[int, str], name: str) -> None:
    pid, path = server
    flood = FLOODS[name]
    before = most = resident(pid)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path + flood.door)
        for greeting in flood.greetings:
            peer.sendall(greeting)
            peer.recv(4096)
        peer.settimeout(STALLED)
        try:
            for _ in range(ROUNDS):
                peer.sendall(flood.message * 100)
                most = max(most, resident(pid))
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        most = max(most, resident(pid))
    print(f"{name}: {most - before} KiB")
    assert most - before < SLACK
    # The next one is served.
    assert ask(f"{path}.control", "query-status", timeout=60)["objects"] == []
    with Client(path) as client:
        client.negotiate()
