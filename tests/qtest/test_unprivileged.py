"""A server without any privilege: a real QEMU attaches, and no other user of the host does."""

from __future__ import annotations

import os
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.landlock import needs_landlock
from tests.qtest.lane import ADAPTER_SLOT, BUFFER, PATHS, PLATFORMS, REQUESTER, pattern
from vdxgk.channel import layout
from vdxgk_lab import processes
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import PAGE, Frames
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.run_directory import RunDirectory

OWNER = 65534
STRANGER = 65533
LOGICAL = 0x1234_5000
SECONDS = 60


def as_user(user: int, *command: str) -> list[str]:
    identity = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["setpriv", *identity, "--", *command]


def run_as(user: int, code: str) -> str:
    """What a program of a user's says."""
    command = as_user(user, sys.executable, "-c", code)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout.strip() or run.stderr


@dataclass
class Served:
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def doors(self) -> list[Path]:
        """Its sockets: for QEMU, for questions, for viewers."""
        return [self.directory / name for name in ("s", "s.control", "v")]


@pytest.fixture
def served() -> Iterator[Served]:
    """The directory is no secret: the sockets themselves keep others out."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("not root, or no setpriv: no other user can be tried")
    if (said := run_as(OWNER, "import vdxgk.adapter; print('found')")) != "found":
        pytest.skip(f"another user cannot read this checkout: {said.strip()[-200:]}")
    with tempfile.TemporaryDirectory(prefix="vdxgk-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        os.chown(directory, OWNER, OWNER)
        ready, theirs = os.pipe()
        process = subprocess.Popen(
            as_user(
                OWNER,
                *(sys.executable, "-m", "vdxgk", "serve", "--sandbox"),
                *("--socket", str(directory / "s"), "--vnc", str(directory / "v")),
                *("--ready-fd", str(theirs)),
            ),
            pass_fds=[theirs],
        )
        os.close(theirs)
        try:
            poll = select.poll()
            poll.register(ready, select.POLLIN)
            assert poll.poll(SECONDS * 1000)
            assert os.read(ready, 1)
            yield Served(directory, process)
            assert processes.end(process, SECONDS) == 0
            assert list(directory.iterdir()) == []
        finally:
            os.close(ready)
            processes.end(process, SECONDS)


@needs_landlock
def test_qemu_attaches_to_a_server_of_nobodys(
    served: Served, qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    assert f"Uid:\t{OWNER}\t{OWNER}\t{OWNER}\t{OWNER}\n" in status
    socket = str(served.doors[0])
    config = QtestConfig((PLATFORMS["intel"].device, vfio_user(socket, ADAPTER_SLOT)))
    with QtestMachine(config, qemu, vdxgk_run.path) as machine:
        qtest = machine.qtest
        gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
        gpu.start(MmioWindow())
        iommu = IntelIommu(qtest, Frames(qtest), REQUESTER)
        iommu.enable()
        content = pattern(1, PAGE)
        qtest.write(BUFFER, content)
        iommu.map(LOGICAL, BUFFER, PAGE)
        for flags in PATHS.values():
            read = gpu.engine(op=layout.ENGINE_CRC32, flags=flags, source=LOGICAL, size=PAGE)
            assert (read.status, read.result) == (0, zlib.crc32(content))


@needs_landlock
def test_no_other_user_connects_or_looks_in(served: Served) -> None:
    for door in served.doors:
        found = door.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, OWNER)
        connect = (
            f"import socket; socket.socket(socket.AF_UNIX).connect({str(door)!r}); print('in')"
        )
        assert "PermissionError" in run_as(STRANGER, connect)
        # The opposite: whose socket it is gets in.
        assert run_as(OWNER, connect) == "in"
    # In a sandbox not even its own user's debugger: what it holds is guests' memory.
    read = f"open('/proc/{served.process.pid}/mem', 'rb'); print('in')"
    for user in (STRANGER, OWNER):
        assert "PermissionError" in run_as(user, read)
