"""TigerVNC's viewer, on an X server without a screen: a client that others wrote.

Both come from Debian into a tree of the cache, and run with it as their root directory.
The X server keeps its picture in a file (Xvfb -fbdir, in the format of xwd).
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdxgk.display.pixels import Picture
from vdxgk_lab import processes, timeouts, tree_build
from vdxgk_lab.trees import Tree

_SECONDS = 60
_POLL_SECONDS = 0.05
_XWD = struct.Struct(">25I")
_HEADER, _WIDTH, _HEIGHT, _PITCH, _COLOURS = 0, 4, 5, 12, 19
_COLOUR = 12  # bytes
_VIEWER = (
    # Pixels as they come, and a window of their size.
    *("-PreferredEncoding=ZRLE", "-AutoSelect=0", "-FullColor=1", "-NoJPEG=1"),
    *("-RemoteResize=0", "-ReconnectOnError=0", "-AlertOnFatalError=0"),
)


@contextlib.contextmanager
def place(tree: Tree) -> Iterator[Path]:
    """A directory that the tree's programs see too, where a door for them may be."""
    with tempfile.TemporaryDirectory(prefix="vnc-", dir=tree.root / "build") as name:
        yield Path(name)


@dataclass(frozen=True)
class TigerVnc:
    """A viewer in a window on a larger screen."""

    tree: Tree
    directory: Path
    display: str

    def picture(self) -> Picture:
        """What is in the window, as red, green and blue."""
        words = self._do("search", "--class", ".", "getwindowgeometry", "--shell")
        place = dict(line.split("=") for line in words.splitlines())
        left, top, width, height = (int(place[name]) for name in ("X", "Y", "WIDTH", "HEIGHT"))
        data = (self.directory / "Xvfb_screen0").read_bytes()
        header = _XWD.unpack_from(data)
        screen_width, screen_height = header[_WIDTH], header[_HEIGHT]
        start = header[_HEADER] + header[_COLOURS] * _COLOUR
        lines = np.frombuffer(data, np.uint8, header[_PITCH] * screen_height, start)
        pixels = lines.reshape(screen_height, header[_PITCH])[:, : 4 * screen_width]
        shown = pixels.reshape(screen_height, screen_width, 4)
        return shown[top : top + height, left : left + width, 2::-1].copy()

    def type(self, text: str) -> None:
        """As a person who waits for each character to appear; then Return."""
        for character in text:
            before = self._whole()
            self._do("type", "--", character)
            deadline = time.monotonic() + _SECONDS * timeouts.scale(emulated=True)
            while self._whole() == before:
                assert time.monotonic() < deadline, f"no echo of {character!r} of {text!r}"
                time.sleep(_POLL_SECONDS)
        self._do("key", "Return")

    def _whole(self) -> bytes:
        return (self.directory / "Xvfb_screen0").read_bytes()

    def _do(self, *words: str) -> str:
        done = subprocess.run(
            [*_enter(self.tree), "/usr/bin/xdotool", *words],
            env={**os.environ, "DISPLAY": self.display},
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        return done.stdout


@contextlib.contextmanager
def tigervnc(tree: Tree, door: Path, log: Path, screen: str = "1600x1000") -> Iterator[TigerVnc]:
    """A viewer at a `door` in a `place`; `log` takes what it and its X server say."""
    directory = door.parent
    inside = f"/build/{directory.name}"
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))

        def start(*command: str, display: str = "", keep: tuple[int, ...] = ()) -> None:
            process = subprocess.Popen(
                processes.bound_to_parent([*_enter(tree), *command]),
                env={**os.environ, "DISPLAY": display, "HOME": inside, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=keep,
            )
            stack.callback(processes.end, process)

        told, theirs = os.pipe()
        stack.callback(os.close, told)
        server = ("-screen", "0", f"{screen}x24", "-nolisten", "tcp", "-fbdir", inside)
        start("/usr/bin/Xvfb", "-displayfd", str(theirs), *server, keep=(theirs,))
        os.close(theirs)
        number = os.read(told, 16).decode().strip()
        assert number, log.read_text()
        viewer = TigerVnc(tree, directory, f":{number}")
        viewer._do("mousemove", "0", "0")  # its arrow would be in the picture
        start("/usr/bin/xtigervncviewer", *_VIEWER, f"{inside}/{door.name}", display=viewer.display)
        # No window manager gives it the keyboard.
        viewer._do("search", "--sync", "--onlyvisible", "--class", ".", "windowfocus")
        yield viewer


def _enter(tree: Tree) -> list[str]:
    return tree_build.enter(tree, os.geteuid() == 0)
