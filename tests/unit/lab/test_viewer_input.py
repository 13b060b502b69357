"""From what viewers send to what QEMU understands."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from vdxgk.control import Connected, ControlServer, ask
from vdxgk.vnc.input import InputQueue
from vdxgk_lab.keysyms import key_code
from vdxgk_lab.qmp import Refused
from vdxgk_lab.viewer_input import Translator, ViewerInput


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        *(("aA", "a"), ("1!", "1"), ("-_", "minus"), ("`~", "grave_accent"), ("0)", "0")),
        *(("\\|", "backslash"), ("'\"", "apostrophe"), ("/?", "slash"), (" ", "spc")),
    ],
)
def test_both_characters_of_a_key(typed: str, expected: str) -> None:
    assert [key_code(ord(character)) for character in typed] == [expected] * len(typed)


def test_every_printable_character_has_a_key() -> None:
    printable = string.digits + string.ascii_letters + string.punctuation + " "
    assert len({key_code(ord(character)) for character in printable}) == 48
    assert all(key_code(ord(character)) for character in printable)


def test_named_keys() -> None:
    wanted = {0xFF0D: "ret", 0xFFBE: "f1", 0xFFC9: "f12", 0xFFB7: "kp_7", 0xFFE1: "shift"}
    assert {keysym: key_code(keysym) for keysym in wanted} == wanted
    for unknown in (0, 0x1F, 0x7F, 0xE9, 0x20AC, 0xFFFFFFFF):
        assert key_code(unknown) is None


def test_translation() -> None:
    translate = Translator()
    (key,) = translate({"type": "key", "down": True, "keysym": 0x61})
    assert key == [
        {"type": "key", "data": {"down": True, "key": {"type": "qcode", "data": "a"}}},
    ]
    assert list(translate({"type": "key", "down": True, "keysym": 0x20AC})) == []
    pointer: dict[str, Any] = {"type": "pointer", "x": 639, "y": 0, "width": 640, "height": 480}
    axes, buttons = translate({**pointer, "buttons": 0b101})
    assert [event["data"] for event in axes] == [
        {"axis": "x", "value": 0x7FFF},
        {"axis": "y", "value": 0},
    ]
    assert [event["data"] for event in buttons] == [
        {"down": True, "button": "left"},
        {"down": True, "button": "right"},
    ]
    (_, released) = translate({**pointer, "buttons": 0b100})
    assert [event["data"] for event in released] == [{"down": False, "button": "left"}]
    assert len(list(translate({**pointer, "buttons": 0b100}))) == 1


class Monitor:
    """Takes keys, and refuses axes as a machine without a tablet does."""

    def __init__(self) -> None:
        self.keys = InputQueue()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> object:
        assert command == "input-send-event"
        assert arguments
        for event in arguments["events"]:
            if event["type"] == "abs":
                raise Refused("no tablet")
            self.keys.put(event["data"])
        return {}


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[tuple[Path, InputQueue]]:
    typed = InputQueue()

    def take(arguments: Mapping[str, Any], connected: Connected) -> object:
        return {"events": typed.take(arguments["wait"], connected)}

    door = ControlServer(str(tmp_path / "door"), {"take-input": take}, structlog.get_logger())
    door.start()
    try:
        yield tmp_path / "door", typed
    finally:
        typed.put({"type": "end"})  # lets the door's threads go
        door.stop()


def test_events_are_carried_from_the_door_to_the_monitor(served: tuple[Path, InputQueue]) -> None:
    door, typed = served
    monitor = Monitor()
    with ViewerInput(door, monitor):
        pointer = {"type": "pointer", "x": 1, "y": 1, "width": 9, "height": 9, "buttons": 0}
        typed.put(pointer)
        for down in (True, False):
            typed.put({"type": "key", "down": down, "keysym": 0x61})
        seen: list[dict[str, Any]] = []
        while len(seen) < 2:
            some = monitor.keys.take(30)
            assert some
            seen += some
    assert [event["down"] for event in seen] == [True, False]


def test_one_who_has_gone_takes_nothing_with_him(served: tuple[Path, InputQueue]) -> None:
    door, typed = served
    for _ in range(5):  # each is likely to wait already when it goes
        with ViewerInput(door, Monitor()):
            assert ask(str(door), "take-input", wait=0) == {"events": []}
    for number in range(3):
        typed.put({"number": number})
    taken: list[Any] = []
    while len(taken) < 3:
        more = ask(str(door), "take-input", wait=30)["events"]
        assert more
        taken += more
    assert [event["number"] for event in taken] == [0, 1, 2]
