"""Viewers of a guest's screen, keyboard and pointer."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.viewing import type_in
from tests.unit.vdxgk.vnc.viewer import DESKTOP_SIZE, ZRLE, SocketViewer
from vdxgk_lab.artifacts import Artifacts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@contextlib.contextmanager
def booted(directory: Path, *options: str) -> Iterator[Iterator[bytes]]:
    """`vdxgk boot` with options; the lines that it prints."""
    with subprocess.Popen(
        [sys.executable, "-m", "vdxgk_lab", "boot", *options],
        env={**os.environ, "TMPDIR": str(directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=directory,
    ) as boot:
        try:
            assert boot.stdout
            yield iter(boot.stdout)
        finally:
            boot.terminate()


def wait_for(lines: Iterator[bytes], words: bytes) -> bytes:
    return next(line for line in lines if words in line)


# An event of the tablet; 16 bytes with the time, then what happened.
POINTED = "head -c 24 /dev/input/event1|od -An -tx2 >/dev/ttyS0"


def test_a_person_at_the_screen_of_a_booted_guest(
    vdxgk_artifacts: Artifacts, tmp_path: Path
) -> None:
    assert vdxgk_artifacts.initramfs.exists()
    with booted(tmp_path, "--memory=512M", "--vnc=screen") as lines:
        wait_for(lines, b"vdxgk guest:")
        viewer = SocketViewer(str(tmp_path / "screen"))
        viewer.encodings(ZRLE, DESKTOP_SIZE)
        with contextlib.closing(viewer.socket):
            type_in(viewer, "expr 6 '*' 111 >/dev/ttyS0")
            wait_for(lines, b"666")
            assert (viewer.width, viewer.height) == (1024, 768)

            type_in(viewer, POINTED)
            # The program opens the device when it gets to it.
            told = threading.Event()
            words: list[str] = []

            def listen() -> None:
                words.extend(wait_for(lines, b" 0003 ").decode().split())
                told.set()

            threading.Thread(target=listen, daemon=True).start()
            for x in itertools.cycle(range(100, 200)):
                viewer.pointer(0, x, 50)
                if told.wait(0.1):
                    break
    # EV_ABS, ABS_X, and a value from 0 to 0x7fff.
    assert words[:2] == ["0003", "0000"]
    assert 100 * 0x7FFF // 1023 <= int(words[2], 16) <= 200 * 0x7FFF // 1023
