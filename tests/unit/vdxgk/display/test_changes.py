"""What a tracker says has changed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from vdxgk.display.changes import Change, ChangeTracker
from vdxgk.display.display import Display
from vdxgk.display.edid import Mode
from vdxgk.display.pixels import Picture

WIDTH, HEIGHT = 300, 200
LINE = 4 * 320


@pytest.fixture
def display() -> Iterator[Display]:
    display = Display(4 << 20, Mode(640, 480))
    display.framebuffer.view[:] = random.Random(1).randbytes(4 << 20)
    show(display)
    yield display
    display.framebuffer.close()


def show(display: Display, *, bits: int = 32, enable: int = 1) -> None:
    display.registers.write(0x502, struct.pack("<9H", WIDTH, HEIGHT, bits, enable, 0, 320, 0, 8, 4))


def apply(picture: Picture, changes: list[Change]) -> None:
    for change in changes:
        height, width = change.picture.shape[:2]
        picture[change.y : change.y + height, change.x : change.x + width] = change.picture


def whole(changes: list[Change]) -> Picture:
    """The screen that changes make of nothing; all of it must be among them."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    apply(picture, changes)
    assert sum(change.words.size for change in changes) == HEIGHT * WIDTH
    return picture


def invert(display: Display, x: int, y: int) -> None:
    """Change the pixel at a place of the screen."""
    at = (y + 4) * LINE + (x + 8) * 4
    display.framebuffer.view[at] ^= 0xFF


def test_the_first_look_sees_everything_and_the_second_nothing(display: Display) -> None:
    tracker = ChangeTracker(display)
    screen, changes = tracker.look()
    assert (screen.width, screen.height) == (WIDTH, HEIGHT)
    assert np.array_equal(whole(changes), display.picture())
    assert tracker.look()[1] == []


def test_one_pixel(display: Display) -> None:
    tracker = ChangeTracker(display)
    tracker.look()
    invert(display, 17, 99)
    ((change,),) = tracker.look()[1:]
    assert (change.x, change.y, change.picture.shape) == (17, 99, (1, 1, 3))
    assert change.picture[0, 0].tolist() == display.picture()[99, 17].tolist()
    assert tracker.look()[1] == []


def test_what_is_not_on_the_screen_is_not_seen(display: Display) -> None:
    tracker = ChangeTracker(display)
    tracker.look()
    for x, y in ((-1, 10), (WIDTH, 10), (10, -1), (10, HEIGHT)):
        invert(display, x, y)
    assert tracker.look()[1] == []


@pytest.mark.parametrize("bits", [16, 32])
def test_a_viewer_that_applies_all_changes_sees_the_screen(display: Display, bits: int) -> None:
    show(display, bits=bits)
    tracker = ChangeTracker(display)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    apply(picture, tracker.look()[1])
    source = random.Random(3)
    for _ in range(40):
        for _ in range(source.randrange(4)):
            at = source.randrange(LINE * (HEIGHT + 4))
            display.framebuffer.view[at : at + 40] = source.randbytes(40)
        apply(picture, tracker.look()[1])
        assert np.array_equal(picture, display.picture())


def test_a_change_of_the_mode_shows_everything(display: Display) -> None:
    tracker = ChangeTracker(display)
    tracker.look()
    show(display, bits=16)
    _, changes = tracker.look()
    assert np.array_equal(whole(changes), display.picture())


def test_blank_is_black_once(display: Display) -> None:
    tracker = ChangeTracker(display)
    tracker.look()
    show(display, enable=0)
    assert not whole(tracker.look()[1]).any()
    invert(display, 0, 0)
    assert tracker.look()[1] == []
    show(display)
    assert np.array_equal(whole(tracker.look()[1]), display.picture())


def test_a_forgetful_tracker_sees_everything_again(display: Display) -> None:
    tracker = ChangeTracker(display)
    for _ in range(3):
        tracker.forget()
        assert np.array_equal(whole(tracker.look()[1]), display.picture())
