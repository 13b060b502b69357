"""What clients and viewers leave behind in the process that served them: nothing."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

from pyvfio_user import Client
from tests.footprint import Footprint
from tests.unit.vdxgk.test_cli import served
from tests.unit.vdxgk.vnc.viewer import RAW, ZRLE, SocketViewer
from tests.waiting import wait_for
from vdxgk.control import ask
from vdxgk.vnc.protocol import Connection
from vdxgk.vnc.server import MAX_VIEWERS

VISITS = 3
RAM = 64 << 20
GROWTH = 1 << 10
"""KiB.  A thread's heap, or a viewer's compressors and pictures, would be more."""


def everybody_visits(path: Path, server: int) -> None:
    """As many viewers as there is room for take screens at the same time, and go."""
    descriptors = Path(f"/proc/{server}/fd")
    before = Footprint.of(server).descriptors  # whoever asked whether it is ready has gone
    together = threading.Barrier(MAX_VIEWERS)

    def visit(encoding: int) -> None:
        viewer = SocketViewer(str(path))
        viewer.encodings(encoding)
        together.wait()
        for _ in range(3):
            viewer.request(incremental=False)
            viewer.update()
        together.wait()
        viewer.socket.close()

    encodings = [RAW, ZRLE] * (MAX_VIEWERS // 2)
    threads = [threading.Thread(target=visit, args=[each]) for each in encodings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: len(os.listdir(descriptors)) <= before, "room for the next viewers")


def test_viewers_leave_no_memory_behind(tmp_path: Path) -> None:
    path = tmp_path / "vnc"
    with served(tmp_path / "s", "--vnc", str(path), "--log-level=error") as server:
        everybody_visits(path, server.pid)
        first = Footprint.of(server.pid)
        for _ in range(VISITS):
            everybody_visits(path, server.pid)
        last = Footprint.of(server.pid)
    assert not last.excess(first), (first, last)
    assert last.resident <= first.resident + GROWTH, (first, last)


@pytest.mark.parametrize("resets", [False, True])
def test_a_machine_leaves_no_memory_behind(tmp_path: Path, resets: bool) -> None:
    """Also one that ends before it has begun: its memory was announced, and nothing else said."""

    def machine_comes_and_goes() -> Footprint:
        with Client(str(tmp_path / "s")) as client:
            client.negotiate()
            memory = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
            os.ftruncate(memory, RAM)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            client.dma_map(0, RAM, descriptor=memory)
            os.close(memory)
            if resets:
                client.reset()
        control = str(tmp_path / "s.control")
        wait_for(lambda: not ask(control, "query-status")["connected"], "the client's end")
        return Footprint.of(server.pid)

    with served(tmp_path / "s", "--log-level=error") as server:
        first = machine_comes_and_goes()
        for _ in range(VISITS):
            last = machine_comes_and_goes()
    assert not last.excess(first), (first, last)


def test_a_connection_goes_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        connection = Connection("name", 640, 480)
        connection.receive(b"RFB 003.008\n\1\1")
        gone = weakref.ref(connection)
        connection.close()
        del connection
        assert gone() is None
    finally:
        gc.enable()
