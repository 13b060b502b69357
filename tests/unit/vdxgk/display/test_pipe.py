"""The display pipe: flips at vertical blanks, what is shown, what happens when memory goes."""

from __future__ import annotations

import ctypes
import random
import struct
from typing import Any

import numpy as np
import pytest

from vdxgk.channel import layout
from vdxgk.display.changes import ChangeTracker
from vdxgk.display.display import Display
from vdxgk.display.edid import Mode
from vdxgk.display.pipe import PERIOD, DisplayPipe
from vdxgk.display.pixels import Picture, to_picture
from vdxgk.display.scanout import PixelFormat
from vdxgk.faults import AccessRefused, Fault, FaultReason
from vdxgk.memory.ntstatus import NtStatus

SURFACE, CURSOR = 64, 64
MEMORY = 1 << 20
BASE = 0x1000_0000


class Rig:
    """A pipe over a piece of memory at BASE, on a clock that stands still."""

    def __init__(self) -> None:
        self.shared = memoryview(bytearray(layout.SHARED_BULK))
        self.memory = bytearray(np.random.default_rng(1).bytes(MEMORY))
        self.present = range(BASE, BASE + MEMORY)
        self.now = 1000 * PERIOD + 5
        self.woken = 0
        self.interrupts = 0
        self.faults: list[Fault] = []
        self.pipe = DisplayPipe(
            self.shared,
            self.fetch,
            wake=self.wake,
            interrupt=self.interrupt,
            on_fault=self.faults.append,
            clock=lambda: self.now,
        )
        self.display = Display(4 << 20, Mode(320, 200))
        self.display.pipe = self.pipe

    def wake(self) -> None:
        self.woken += 1

    def interrupt(self) -> None:
        self.interrupts += 1

    def fetch(self, address: int, target: memoryview, messages: bool) -> None:
        size = len(target)
        if address not in self.present or address + size > self.present.stop:
            raise AccessRefused(Fault(address, size, False, FaultReason.UNMAPPED))
        target[:] = self.memory[address - BASE : address - BASE + size]

    def control(self, value: int) -> None:
        self.pipe.write_register(layout.REG_SCANOUT_CONTROL, value)

    def describe(self, slot: int = 0, **values: int) -> None:
        usual = {
            **{"format": layout.FORMAT_XRGB8888, "width": 100, "height": 80, "pitch": 403},
            **{"run_count": 1, "sequence": 1},
        }
        surface = bytes(layout.Surface(**{**usual, **values}))
        at = layout.SHARED_SCANOUT + slot * SURFACE
        self.shared[at : at + SURFACE] = surface

    def runs(self, *runs: tuple[int, int], slot: int = 0) -> None:
        at = layout.SHARED_SURFACE_RUNS + slot * layout.SURFACE_MAX_RUNS * 16
        for number, run in enumerate(runs):
            struct.pack_into("<2Q", self.shared, at + 16 * number, *run)

    def flip(self, slot: int = 0) -> None:
        """Ask, and let the vertical blank come."""
        self.pipe.write_register(layout.REG_SCANOUT_FLIP, slot)
        self.now += PERIOD
        self.pipe.work()

    def show(self, slot: int = 0, **values: int) -> None:
        self.describe(slot, **values)
        self.runs((BASE, MEMORY), slot=slot)
        self.control(layout.SCANOUT_ENABLE)
        self.flip(slot)

    def expected(self, start: int, pitch: int, width: int, height: int) -> Picture:
        rows = [self.memory[start + pitch * y :][: 4 * width] for y in range(height)]
        pixels = np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, 4)
        return pixels[..., 2::-1]

    @property
    def state(self) -> layout.ScanoutState:
        at = layout.SHARED_SCANOUT + layout.Scanout.state.offset
        return layout.ScanoutState.from_buffer_copy(self.shared[at : at + 64])


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_surface_with_an_odd_pitch_and_offset(rig: Rig) -> None:
    rig.show(offset=17)
    assert np.array_equal(rig.display.picture(), rig.expected(17, 403, 100, 80))


def test_scattered_runs_in_any_order(rig: Rig) -> None:
    rig.runs(*((BASE + page * 0x1000, 0x1000) for page in (9, 3, 7, 8)), (0, 0))
    rig.describe(width=64, height=40, pitch=256, run_count=4, offset=0x1800)
    rig.control(layout.SCANOUT_ENABLE)
    rig.flip()
    shown = rig.display.picture()
    assert np.array_equal(shown[:8], rig.expected(0x3800, 256, 64, 8))
    assert np.array_equal(shown[8:40], rig.expected(0x7000, 256, 64, 32))


@pytest.mark.parametrize("kind", [layout.FORMAT_ARGB8888, layout.FORMAT_RGB565])
def test_formats(rig: Rig, kind: int) -> None:
    rig.show(format=kind, pitch=401)
    shown = rig.display.picture()
    if kind == layout.FORMAT_ARGB8888:
        assert np.array_equal(shown, rig.expected(0, 401, 100, 80))
        return
    (word,) = struct.unpack_from("<H", rig.memory, 401 * 5 + 2 * 7)
    red, green, blue = word >> 11, word >> 5 & 63, word & 31
    assert shown[5, 7].tolist() == [
        red << 3 | red >> 2,
        green << 2 | green >> 4,
        blue << 3 | blue >> 2,
    ]


@pytest.mark.parametrize("kind", [layout.FORMAT_XRGB8888, layout.FORMAT_RGB565])
def test_a_viewer_that_applies_all_changes_sees_the_surface(rig: Rig, kind: int) -> None:
    """Whatever the pitches of the surfaces, and what lies between their rows."""
    choose = random.Random(4)
    tracker = ChangeTracker(rig.display)
    picture = np.zeros((80, 100, 3), np.uint8)
    for turn in range(120):
        if turn % 6 == 0:
            rig.show(turn % 2, format=kind, pitch=choose.choice([400, 404, 404, 512, 401]))
        elif turn % 13 == 0:
            rig.control(0)
        for _ in range(choose.randrange(3)):
            at = choose.randrange(80 * 400)
            rig.memory[at : at + 40] = choose.randbytes(40)
        screen, changes = tracker.look()
        if (screen.width, screen.height) == (100, 80):
            for change in changes:
                height, width = change.words.shape
                picture[change.y : change.y + height, change.x : change.x + width] = change.picture
            assert np.array_equal(picture, rig.display.picture())
        assert tracker.look()[1] == []


def test_only_what_is_new_of_a_surface_is_a_change(rig: Rig) -> None:
    rig.show(pitch=404)
    tracker = ChangeTracker(rig.display)
    tracker.look()
    rig.memory[404 * 70 + 400] ^= 1  # behind the end of a row
    assert tracker.look()[1] == []
    rig.memory[404 * 70 + 4 * 99] ^= 1
    ((change,),) = tracker.look()[1:]
    assert (change.x, change.y, change.words.shape) == (99, 70, (1, 1))


def test_from_a_surface_with_a_wide_pitch_to_the_framebuffer(rig: Rig) -> None:
    """As many bytes as the framebuffer has are the same; the pictures are not."""
    registers = struct.pack("<9H", 100, 80, 32, 1, 0, 100, 80, 0, 0)
    rig.display.registers.write(0x502, registers)
    rig.display.registers.write(0x400, b"\x20")
    rig.memory[:] = bytes(MEMORY)
    rig.memory[512 * 79] = 1
    rig.show(pitch=512)
    tracker = ChangeTracker(rig.display)
    tracker.look()
    rig.control(0)
    ((change,),) = tracker.look()[1:]
    assert (change.x, change.y, change.words.tolist()) == (0, 79, [[0]])


def test_a_flip_waits_for_the_vertical_blank(rig: Rig) -> None:
    rig.show(sequence=7)
    before = rig.display.picture()
    assert (rig.state.sequence, rig.state.status, rig.interrupts) == (7, 0, 1)
    rig.describe(1, offset=0x2000, sequence=8)
    rig.runs((BASE, MEMORY), slot=1)
    rig.pipe.write_register(layout.REG_SCANOUT_FLIP, 1)
    pause = rig.pipe.work()
    assert pause is not None
    assert 0 < pause <= 1 / layout.SCANOUT_HZ
    assert np.array_equal(rig.display.picture(), before)
    assert rig.state.sequence == 7
    rig.now += round(pause * 1e9)
    assert rig.pipe.work() is None
    assert np.array_equal(rig.display.picture(), rig.expected(0x2000, 403, 100, 80))
    state = rig.state
    assert (state.sequence, state.flip_time, state.version % 2) == (8, rig.now, 0)
    assert state.flip_vblank == rig.now // PERIOD
    assert rig.interrupts == 2


def test_nobody_wakes_up_for_a_picture_that_stands(rig: Rig) -> None:
    rig.show()
    woken = rig.woken
    rig.now += 10 * PERIOD
    assert rig.pipe.work() is None
    assert (rig.woken, rig.interrupts) == (woken, 1)


def test_vertical_blank_interrupts(rig: Rig) -> None:
    rig.control(layout.SCANOUT_ENABLE | layout.SCANOUT_VBLANK_INTERRUPT)
    assert rig.pipe.work() is not None
    assert rig.interrupts == 0
    for count in (1, 2):
        rig.now += PERIOD
        rig.pipe.work()
        assert (rig.interrupts, rig.state.vblank) == (count, rig.now // PERIOD)
        rig.pipe.work()  # once for each
        assert rig.interrupts == count
    rig.control(layout.SCANOUT_ENABLE)
    assert rig.pipe.work() is None


@pytest.mark.parametrize(
    "values",
    [
        *({"format": 0}, {"format": 4}, {"width": 0}, {"height": 0}, {"width": 4097}),
        *({"pitch": 399}, {"pitch": 0xFFFFFFFF}, {"flags": 2}, {"run_count": 0}),
        *({"run_count": layout.SURFACE_MAX_RUNS + 1}, {"offset": MEMORY - 403 * 79 - 399}),
        *({"run_count": 2, "offset": MEMORY}, {"offset": (1 << 64) - 1}),
    ],
)
def test_what_cannot_be_shown_leaves_what_is_shown(rig: Rig, values: dict[str, Any]) -> None:
    rig.show()
    before = rig.display.picture()
    rig.describe(1, sequence=5, **values)
    rig.runs((BASE, MEMORY), slot=1)
    rig.flip(1)
    assert (rig.state.sequence, rig.state.status) == (5, NtStatus.INVALID_PARAMETER)
    assert np.array_equal(rig.display.picture(), before)


def test_the_last_bytes_of_the_runs_are_used(rig: Rig) -> None:
    rig.show(offset=MEMORY - 403 * 79 - 400)
    assert rig.state.status == 0
    assert rig.display.picture().any()


def test_memory_that_goes_while_it_is_shown(rig: Rig) -> None:
    rig.show()
    rig.pipe.unmapped(BASE - 0x1000, 0x1000)  # a neighbour's
    rig.pipe.work()
    assert not rig.faults
    rig.present = range(BASE, BASE + 0x2000)
    rig.pipe.unmapped(BASE + 0x2000, 0x1000)
    rig.pipe.unmapped(BASE + 0x3000, 0x1000)
    rig.pipe.work()
    assert [(fault.address, fault.reason) for fault in rig.faults] == [
        (BASE + 0x2000, FaultReason.UNMAPPED)
    ]
    assert rig.state.fault == rig.faults[0].info
    # It stays black though the memory may come back, and is told once.
    rig.present = range(BASE, BASE + MEMORY)
    for _ in range(2):
        shown = rig.display.picture()
        assert shown.shape == (80, 100, 3)
        assert not shown.any()
    assert len(rig.faults) == 1
    rig.flip()
    assert rig.display.picture().any()
    assert rig.state.fault == 0


def test_memory_that_was_never_there_is_noticed_when_somebody_looks(rig: Rig) -> None:
    rig.present = range(0)
    rig.show()
    assert not rig.display.picture().any()
    assert not rig.display.picture().any()
    assert len(rig.faults) == 1


def test_blank_off_and_reset(rig: Rig) -> None:
    rig.show()
    rig.control(layout.SCANOUT_ENABLE | layout.SCANOUT_BLANK)
    assert rig.display.picture().shape == (80, 100, 3)
    assert not rig.display.picture().any()
    rig.control(layout.SCANOUT_ENABLE)
    assert rig.display.picture().any()
    rig.control(0)
    assert rig.display.picture().shape == (200, 320, 3)  # nothing in the registers either
    rig.control(layout.SCANOUT_ENABLE)
    assert not rig.display.picture().any()
    rig.show()
    rig.pipe.reset()
    assert not rig.pipe.enabled
    assert rig.state.sequence == 0


def cursor(rig: Rig, x: int, y: int, flags: int = layout.CURSOR_VISIBLE, **values: object) -> None:
    at = layout.SHARED_SCANOUT + layout.Scanout.cursor.offset
    rig.shared[at : at + CURSOR] = bytes(layout.Cursor(flags=flags, **values))
    position = struct.unpack("<I", struct.pack("<hh", x, y))[0]
    rig.pipe.write_register(layout.REG_SCANOUT_CURSOR_POSITION, position)
    rig.pipe.write_register(layout.REG_SCANOUT_CURSOR, 1)
    rig.pipe.work()


@pytest.mark.parametrize(("x", "y"), [(30, 20), (-10, -20), (90, 70), (-65, 0), (200, 5)])
def test_a_cursor_over_the_surface(rig: Rig, x: int, y: int) -> None:
    rig.show()
    under = rig.display.picture().astype(int)
    picture = np.random.default_rng(2).integers(0, 256, (64, 64, 4), np.uint8)
    at = layout.SHARED_CURSOR_PICTURE
    rig.shared[at : at + picture.size] = picture.tobytes()
    cursor(rig, x, y, hot_x=3, hot_y=5)
    expected = under.copy()
    for row in range(64):
        for column in range(64):
            to_y, to_x = y - 5 + row, x - 3 + column
            if 0 <= to_y < 80 and 0 <= to_x < 100:
                *bgr, alpha = picture[row, column].tolist()
                for colour, value in enumerate(reversed(bgr)):
                    below = under[to_y, to_x, colour]
                    expected[to_y, to_x, colour] = (
                        value * alpha + below * (255 - alpha) + 127
                    ) // 255
    assert np.array_equal(rig.display.picture(), expected)
    _, words = rig.display.look(with_cursor=False)
    assert words is not None
    assert np.array_equal(to_picture(words, PixelFormat.XRGB8888), under)
    cursor(rig, x, y, flags=0)
    assert np.array_equal(rig.display.picture(), under)


def test_a_cursor_from_memory_is_kept(rig: Rig) -> None:
    rig.show()
    pages = [BASE + page * 0x1000 for page in (5, 4, 9, 2)]
    flags = layout.CURSOR_VISIBLE | layout.CURSOR_MEMORY
    cursor(rig, 0, 0, flags, pages=(ctypes.c_uint64 * 4)(*pages))
    assert rig.state.cursor_status == 0
    loaded = rig.pipe.cursor
    assert loaded
    assert loaded.picture.tobytes()[:0x1000] == rig.memory[0x5000:0x6000]
    rig.present = range(0)
    cursor(rig, 0, 0, flags, pages=(ctypes.c_uint64 * 4)(*pages))
    assert rig.state.cursor_status == NtStatus.UNSUCCESSFUL
    assert len(rig.faults) == 1
    assert rig.pipe.cursor is None


@pytest.mark.parametrize("values", [{"flags": 8}, {"hot_x": 64}, {"hot_y": 1 << 31}])
def test_cursors_that_cannot_be(rig: Rig, values: dict[str, Any]) -> None:
    rig.show()
    cursor(rig, 0, 0, **values)
    assert rig.state.cursor_status == NtStatus.INVALID_PARAMETER
    assert rig.pipe.cursor is None
