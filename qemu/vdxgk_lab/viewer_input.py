"""Carries what VNC viewers type and point at to the guest's keyboard and pointer.

The device's server has the viewers, QEMU has the keyboard: the first is asked
through its control door, the second is told by QMP (input-send-event).
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vdxgk_lab.errors import VmLost
from vdxgk_lab.keysyms import key_code
from vdxgk_lab.qmp import Json, Refused

_WAIT_SECONDS = 30
_BUTTONS = ("left", "middle", "right", "wheel-up", "wheel-down")
_FULL_SCALE = 0x7FFF  # of an absolute axis


class Monitor(Protocol):
    """What is needed of a QMP connection."""

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Json:
        """What QEMU returns for a command."""


class ViewerInput:
    """A thread that does so; a context manager. Enter it when the machine runs."""

    def __init__(self, control: Path, monitor: Monitor) -> None:
        """`control` is the door of a server that serves viewers."""
        self._monitor = monitor
        self._translate = Translator()
        self._door = socket.socket(socket.AF_UNIX)
        self._door.connect(str(control))
        self._thread = threading.Thread(target=self._carry, name="viewer input", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._door.close()

    def _carry(self) -> None:
        # The end of the server, of the machine or of our connection is our end.
        with contextlib.suppress(OSError, VmLost):
            for event in self._events():
                for told in self._translate(event):
                    # A machine without a tablet has no absolute axes.
                    with contextlib.suppress(Refused):
                        self._monitor.execute("input-send-event", {"events": told})

    def _events(self) -> Iterator[dict[str, Json]]:
        request = {"execute": "take-input", "arguments": {"wait": _WAIT_SECONDS}}
        with self._door.makefile("rw", encoding="utf-8") as stream:
            stream.readline()  # the greeting
            while True:
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                line = stream.readline()
                if not line:
                    return
                yield from json.loads(line)["return"]["events"]


class Translator:
    """From a viewer's events to lists of QEMU's (InputEvent), each to be sent at once."""

    def __init__(self) -> None:
        self._buttons = 0

    def __call__(self, event: dict[str, Json]) -> Iterator[list[dict[str, object]]]:
        """What one event becomes; nothing for a key that QEMU does not know."""
        if event["type"] == "pointer":
            yield [
                _axis("x", event["x"], event["width"]),
                _axis("y", event["y"], event["height"]),
            ]
            buttons = self._changed_buttons(event["buttons"])
            if buttons:
                yield buttons
        elif code := key_code(event["keysym"]):
            key = {"type": "qcode", "data": code}
            yield [{"type": "key", "data": {"down": event["down"], "key": key}}]

    def _changed_buttons(self, buttons: int) -> list[dict[str, object]]:
        changed = buttons ^ self._buttons
        self._buttons = buttons
        return [
            {"type": "btn", "data": {"down": bool(buttons >> number & 1), "button": name}}
            for number, name in enumerate(_BUTTONS)
            if changed >> number & 1
        ]


def _axis(axis: str, position: int, size: int) -> dict[str, object]:
    value = position * _FULL_SCALE // max(1, size - 1)
    return {"type": "abs", "data": {"axis": axis, "value": value}}
