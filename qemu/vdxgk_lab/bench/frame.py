"""A 1920x1080 screen: what a viewer's look costs, against memcmp and memcpy of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import numpy as np

from vdxgk.display.changes import ChangeTracker
from vdxgk.display.display import Display
from vdxgk.display.scanout import PixelFormat
from vdxgk_lab.bench.figures import Figure, compare, timed

VRAM = 64 << 20
DISPI = 0x500
"""The display's mode registers, 16 bits each: ID, width, height, bits per pixel, enable."""


def run(repetitions: int) -> Iterator[Figure]:
    """The figures that have a budget."""
    yield nothing_changed(1920, 1080, repetitions, 1.5)
    yield to_rgb(1920, 1080, repetitions, 6.0)


def nothing_changed(
    width: int, height: int, repetitions: int, budget: float | None = None
) -> Figure:
    """To find that nothing changed since the last look."""
    display = _showing(width, height)
    tracker = ChangeTracker(display)
    tracker.look()
    size = width * height * 4
    ours = np.frombuffer(display.framebuffer.view, np.uint8, size)
    copy = ours.copy()
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    first, second = ours.ctypes.data, copy.ctypes.data
    assert not tracker.look()[1]
    name = f"{width}x{height}: nothing changed"
    measures = timed(lambda: memcmp(first, second, size)), timed(tracker.look)
    try:
        return compare(name, "memcmp", measures, repetitions, budget)
    finally:
        del ours
        display.framebuffer.close()


def to_rgb(width: int, height: int, repetitions: int, budget: float | None = None) -> Figure:
    """All of it as red, green and blue bytes in memory."""
    display = _showing(width, height)
    source = np.ones(width * height * 4, np.uint8)
    target = np.zeros_like(source)
    measures = timed(lambda: np.copyto(target, source)), timed(display.picture)
    try:
        return compare(f"{width}x{height}: to RGB", "memcpy", measures, repetitions, budget)
    finally:
        display.framebuffer.close()


def _showing(width: int, height: int) -> Display:
    """A display that shows noise at 32 bits per pixel."""
    display = Display(VRAM)
    for place, value in ((2, width), (4, height), (6, 32), (8, 1)):
        display.registers.write(DISPI + place, value.to_bytes(2, "little"))
    display.registers.write(0x400, b"\x20")
    screen, _ = display.look()
    assert (screen.width, screen.height, screen.format) == (width, height, PixelFormat.XRGB8888)
    size = width * height * 4
    display.framebuffer.view[:size] = os.urandom(size)
    return display
