"""A surface in memory that the device reaches by DMA: its description, checked, and its pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vdxgk.channel import layout
from vdxgk.display.scanout import PixelFormat
from vdxgk.memory.ntstatus import invalid

if TYPE_CHECKING:
    from vdxgk.display.pixels import Words

ReadMemory = Callable[[int, memoryview, bool], None]
"""Address, what to fill, whether by protocol messages.  Raises AccessRefused."""

STEP = 1 << 20
"""Bytes read at once: an unmap waits for so much at most."""

_FORMATS = {
    layout.FORMAT_XRGB8888: PixelFormat.XRGB8888,
    layout.FORMAT_ARGB8888: PixelFormat.XRGB8888,
    layout.FORMAT_RGB565: PixelFormat.RGB565,
}
_LONGEST_RUN = 1 << 40


@dataclass(frozen=True, slots=True)
class Surface:
    """What is shown.  Sizes in pixels, ``pitch`` in bytes; ``runs`` hold exactly its bytes."""

    width: int
    height: int
    pitch: int
    format: PixelFormat
    messages: bool
    runs: tuple[tuple[int, int], ...]
    start: int
    """The lowest address."""
    end: int
    """The address behind the highest."""
    size: int
    """Bytes from the first pixel to the last."""

    def read(self, read: ReadMemory, room: memoryview) -> Words:
        """The pixels now, in ``room``, which has ``size`` bytes.  Raises AccessRefused."""
        import numpy as np  # noqa: PLC0415 - it starts slowly, and few look

        at = 0
        for address, size in self.runs:
            for done in range(0, size, STEP):
                count = min(STEP, size - done)
                read(address + done, room[at : at + count], self.messages)
                at += count
        words: Words = np.ndarray(
            (self.height, self.width),
            f"<u{self.format.size}",
            room,
            strides=(self.pitch, self.format.size),
        )
        return words if words.flags.aligned else words.copy()

    def touch(self, start: int, end: int, read: ReadMemory) -> None:
        """Read what of it lies within a range of addresses.  Raises AccessRefused."""
        scratch = memoryview(bytearray(STEP))
        for address, size in self.runs:
            first, last = max(address, start), min(address + size, end)
            for position in range(first, last, STEP):
                read(position, scratch[: last - position], self.messages)


def parse(description: layout.Surface, runs: bytes) -> Surface:
    """A surface as the guest describes it; both are copies.  Raises Refused.

    ``runs`` are as many ranges as it says.
    """
    width, height, pitch = description.width, description.height, description.pitch
    pixel_format = _FORMATS.get(description.format)
    if pixel_format is None:
        raise invalid(f"format {description.format} of a surface")
    if not (0 < width <= layout.SURFACE_MAX_SIDE and 0 < height <= layout.SURFACE_MAX_SIDE):
        raise invalid(f"a surface of {width}x{height}")
    if pitch < width * pixel_format.size or pitch * height > layout.SURFACE_MAX_SIZE:
        raise invalid(f"pitch {pitch} of a surface of {width}x{height}")
    if description.flags & ~layout.SURFACE_MESSAGES:
        raise invalid(f"flags {description.flags:#x} of a surface")
    size = pitch * (height - 1) + width * pixel_format.size
    cut = _cut(runs, description.offset, size)
    return Surface(
        width,
        height,
        pitch,
        pixel_format,
        bool(description.flags & layout.SURFACE_MESSAGES),
        cut,
        min(start for start, _ in cut),
        max(start + length for start, length in cut),
        size,
    )


def _cut(runs: bytes, offset: int, wanted: int) -> tuple[tuple[int, int], ...]:
    """``wanted`` bytes from ``offset`` on; neighbours become one."""
    found: list[tuple[int, int]] = []
    for base, length in struct.iter_unpack("<QQ", runs):
        if not 0 < length <= _LONGEST_RUN or base + length > 1 << 64:
            raise invalid(f"run {base:#x}, {length:#x} of a surface")
        if offset >= length:
            offset -= length
            continue
        size = min(length - offset, wanted)
        start = base + offset
        if found and sum(found[-1]) == start:
            found[-1] = found[-1][0], found[-1][1] + size
        else:
            found.append((start, size))
        offset, wanted = 0, wanted - size
        if not wanted:
            return tuple(found)
    raise invalid(f"the runs of a surface are {wanted} bytes short")
