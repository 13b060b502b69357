"""A real browser without a window, driven over the DevTools protocol.

Chromium comes from Debian into a tree of the cache, and runs by the tree's own
loader, as this user. The protocol is JSON with a zero byte behind each message, over a
pair of pipes (--remote-debugging-pipe): no port that others could reach.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.viewing import SHIFTED
from vdxgk_lab import processes, timeouts
from vdxgk_lab.trees import Tree

_SECONDS = 60
_POLL_SECONDS = 0.1
_FLAGS = (
    # Its sandbox starts programs in its own way; the page is ours.
    *("--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-breakpad", "--hide-scrollbars", "--remote-debugging-pipe"),
)

Json = Any


class Browser:
    """One browser with one page; a context manager. What takes too long is an AssertionError."""

    def __init__(self, tree: Tree, log: Path, width: int = 1280, height: int = 800) -> None:
        """`log` takes what Chromium complains about; sizes are in CSS pixels."""
        self._tree = tree
        self._log = log
        self._size = (width, height)
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self._session = ""
        self._stack = contextlib.ExitStack()
        self.messages: list[str] = []
        """What went wrong in the page: exceptions, refusals by its policy, files not found."""

    def __enter__(self) -> Self:
        """Start it, with an empty page."""
        with contextlib.ExitStack() as stack:
            self._start(stack)
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.command(f"{domain}.enable")
            self.resize(*self._size)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self._stack.close()

    def _start(self, stack: contextlib.ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vdxgk-browser-")))
        program = _program(self._tree, directory)
        its_input, self._writer = os.pipe()
        self._reader, its_output = os.pipe()
        stack.callback(os.close, self._reader)
        stack.callback(os.close, self._writer)
        # It reads from descriptor 3 and writes to descriptor 4. By their paths: not every
        # shell redirects descriptors above 9.
        redirect = f'exec 3</dev/fd/{its_input} 4>/dev/fd/{its_output} && exec "$@"'
        command = [
            *("sh", "-c", redirect, "browser", str(program), *_FLAGS),
            *(f"--browser-subprocess-path={program}", f"--user-data-dir={directory}/profile"),
            "about:blank",
        ]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                processes.bound_to_parent(command),
                env={**os.environ, "FONTCONFIG_SYSROOT": str(self._tree.root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(its_input, its_output),
            )
        stack.callback(processes.end, process)
        os.close(its_input)
        os.close(its_output)

    # ---- the protocol -------------------------------------------------------

    def command(self, method: str, **parameters: object) -> Json:
        """Send a command; answers its result."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS * timeouts.scale(emulated=True)
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _receive(self, deadline: float, purpose: str) -> Json:
        while b"\0" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                raise AssertionError(f"the browser does not answer {purpose}")
            data = os.read(self._reader, 1 << 16)
            assert data, f"the browser is gone: {self._log.read_text(errors='replace')[-1500:]}"
            self._received += data
        message, _, rest = bytes(self._received).partition(b"\0")
        self._received = bytearray(rest)
        return json.loads(message)

    def _note(self, event: Json) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded":
            entry = parameters["entry"]
            # noVNC asks which codecs there are, and forgets a frame.
            if entry["level"] == "error" and "VideoFrame" not in entry["text"]:
                self.messages.append(f"{entry['text']} {entry.get('url', '')}")

    # ---- what a person does ---------------------------------------------------

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.command("Page.navigate", url=url)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Give the window another size, in CSS pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
        )

    def prefer(self, scheme: str) -> None:
        """`dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, expression: str) -> Json:
        """The value of an expression of JavaScript in the page; promises are awaited."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, check: Callable[[Json], bool] = bool) -> Json:
        """Evaluate until the value is what is waited for; answers it."""
        deadline = time.monotonic() + _SECONDS * timeouts.scale(emulated=True)
        while True:
            value = self.evaluate(expression)
            if check(value):
                return value
            text = self.evaluate("document.body?.innerText")
            assert time.monotonic() < deadline, (expression, value, text, self.messages)
            time.sleep(_POLL_SECONDS)

    def point(self, x: float, y: float) -> None:
        """The pointer is at a place of the window."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def release_the_keyboard(self) -> None:
        """Ctrl+Alt+G."""
        keys = (("Control", "ControlLeft", 2), ("Alt", "AltLeft", 3), ("g", "KeyG", 3))
        for key, code, modifiers in keys:
            self._key("keyDown", key, code, "", modifiers)
        for key, code, _ in reversed(keys):
            self._key("keyUp", key, code, "")

    def press(self, character: str) -> None:
        """One key of a US keyboard, with shift where it needs it; "\\r" is Return."""
        shifted = character.isupper() or character in SHIFTED
        if shifted:
            self._key("keyDown", "Shift", "ShiftLeft", "")
        key, code = ("Enter", "Enter") if character == "\r" else (character, _code(character))
        self._key("keyDown", key, code, character)
        self._key("keyUp", key, code, "")
        if shifted:
            self._key("keyUp", "Shift", "ShiftLeft", "")

    def _key(self, kind: str, key: str, code: str, text: str, modifiers: int = 0) -> None:
        event = {"type": kind, "key": key, "code": code, "text": text, "modifiers": modifiers}
        self.command("Input.dispatchKeyEvent", **event)

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        data: str = self.command("Page.captureScreenshot", format="png")["data"]
        return base64.b64decode(data)


def _code(character: str) -> str:
    """The name of a key by its place; noVNC does without where there is none."""
    if character.isalpha():
        return f"Key{character.upper()}"
    return f"Digit{character}" if character.isdigit() else ""


def _program(tree: Tree, directory: Path) -> Path:
    """A script that starts Chromium with the tree's loader and libraries.

    Chromium looks for its files beside the program that runs, which is the
    loader: so that gets a directory with links to them.
    """
    for file in (tree.root / "usr/lib/chromium").iterdir():
        (directory / file.name).symlink_to(file)
    libraries = tree.root / "usr/lib/x86_64-linux-gnu"
    loader = directory / "loader"
    shutil.copy(libraries / "ld-linux-x86-64.so.2", loader)
    path = f"{libraries}:{libraries}/pulseaudio:{directory}"
    words = [str(loader), "--library-path", path, str(directory / "chromium-headless-shell")]
    script = directory / "chromium"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    return script
