"""The display pipe: registers, vertical blanks, flips, and what is shown of memory.

Three threads meet here.  The protocol's brings register accesses and only
takes notes; a worker carries out what has to happen at a vertical blank;
viewers look.  A viewer holds ``_shown`` while it reads a surface, and a flip
waits for it: no picture is made of two.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio_user import ConnectionLost
from vdxgk.channel import layout
from vdxgk.display.scanout import PixelFormat
from vdxgk.display.surface import ReadMemory, Surface, parse
from vdxgk.faults import AccessRefused, Fault
from vdxgk.memory.ntstatus import NtStatus, Refused, invalid

if TYPE_CHECKING:
    from vdxgk.display.cursor import Cursor
    from vdxgk.display.pixels import Room, Words

PERIOD = 1_000_000_000 // layout.SCANOUT_HZ
"""Nanoseconds from one vertical blank to the next."""

_RUN = ctypes.sizeof(layout.Range)
_SURFACE = ctypes.sizeof(layout.Surface)
_CONTROL = layout.SCANOUT_ENABLE | layout.SCANOUT_BLANK | layout.SCANOUT_VBLANK_INTERRUPT
_CURSOR_FLAGS = layout.CURSOR_VISIBLE | layout.CURSOR_MEMORY | layout.CURSOR_MESSAGES
_PAGE = 4096
_STATE = layout.SHARED_SCANOUT + layout.Scanout.state.offset
_TOLD = [field[0] for field in layout.ScanoutState._fields_ if field[0] != "version"]
_CURSOR = layout.SHARED_SCANOUT + layout.Scanout.cursor.offset


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the pipe shows: a copy.  ``words`` is None for black."""

    width: int
    height: int
    format: PixelFormat
    words: Words | None


class _TurnedOff(Exception):  # noqa: N818 - not an error
    """The pipe was turned off while a picture was being read."""


class DisplayPipe:
    """See vdxgk_channel.h, "Scanout".

    ``shared`` is the shared memory, ``read`` the way to the guest's, ``wake``
    makes the worker call :meth:`work`, ``interrupt`` raises the pipe's vector,
    ``on_fault`` is told of the one access for which a surface went black.
    ``clock`` counts nanoseconds.
    """

    def __init__(
        self,
        shared: memoryview,
        read: ReadMemory,
        *,
        wake: Callable[[], None],
        interrupt: Callable[[], object],
        on_fault: Callable[[Fault], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._shared = shared
        self._read = read
        self._wake = wake
        self._interrupt = interrupt
        self._on_fault = on_fault
        self._clock = clock
        self._shown = threading.Lock()
        self._publishing = threading.Lock()
        self._noting = threading.Lock()  # _unmapped
        self._state = layout.ScanoutState()
        self._forget()

    def _forget(self) -> None:
        self._control = 0
        self._position = 0
        self._flip: tuple[int, int] | None = None  # a slot, and the vertical blank it came after
        self._load_cursor = False
        self._told = 0
        self._front: Surface | None = None
        self._black = False  # the front surface could not be read
        self._unmapped: tuple[int, int] | None = None
        self._cursor: Cursor | None = None

    # ---- the protocol's thread -----------------------------------------------

    def reset(self) -> None:
        """Off, as after power-on."""
        self._forget()
        self._publish(**dict.fromkeys(_TOLD, 0))

    def read_register(self, offset: int) -> int:
        """A register's value."""
        if offset == layout.REG_SCANOUT_CONTROL:
            return self._control
        if offset == layout.REG_SCANOUT_CURSOR_POSITION:
            return self._position
        return 0

    def write_register(self, offset: int, value: int) -> None:
        """Take note of a write."""
        if offset == layout.REG_SCANOUT_CONTROL:
            self._told = self._vblank()
            if not self._control & value & layout.SCANOUT_ENABLE:
                self._flip = self._front = self._cursor = self._unmapped = None
            self._control = value & _CONTROL
            self._wake()
        elif offset == layout.REG_SCANOUT_CURSOR_POSITION:
            self._position = value
        elif self._control & layout.SCANOUT_ENABLE:
            if offset == layout.REG_SCANOUT_FLIP and value < layout.SURFACES:
                self._flip = value, self._vblank()
                self._wake()
            elif offset == layout.REG_SCANOUT_CURSOR:
                self._load_cursor = True
                self._wake()

    def unmapped(self, start: int, size: int) -> None:
        """A range of addresses has gone: what is shown may have been there."""
        front = self._front
        if front is None or self._black:
            return
        if start < front.end and front.start < start + size:
            end = start + size
            with self._noting:
                before = self._unmapped or (start, end)
                self._unmapped = min(start, before[0]), max(end, before[1])
            self._wake()

    # ---- the worker ----------------------------------------------------------

    def work(self) -> float | None:
        """Do what is due; seconds until the next vertical blank if somebody waits for it."""
        self._take_cursor()
        self._check_unmapped()
        vblank = self._vblank()
        notify = False
        flip = self._flip
        if flip is not None and flip[1] < vblank:
            self._carry_out(flip, vblank)
            notify = True
        if self._control & layout.SCANOUT_VBLANK_INTERRUPT and self._told < vblank:
            self._told = vblank
            self._publish(vblank=vblank, vblank_time=vblank * PERIOD)
            notify = True
        if notify:
            self._interrupt()
        if self._flip is None and not self._control & layout.SCANOUT_VBLANK_INTERRUPT:
            return None
        return ((self._vblank() + 1) * PERIOD - self._clock()) / 1e9

    def _vblank(self) -> int:
        return self._clock() // PERIOD

    def _carry_out(self, flip: tuple[int, int], vblank: int) -> None:
        slot = flip[0]
        at = layout.SHARED_SCANOUT + slot * _SURFACE
        description = layout.Surface.from_buffer_copy(self._shared[at : at + _SURFACE])
        status = NtStatus.SUCCESS
        try:
            surface = parse(description, self._runs(slot, description.run_count))
        except Refused as refusal:
            status = refusal.status
        with self._shown:
            if self._flip is not flip:
                return  # replaced, or the pipe is off
            self._flip = None
            if not status:
                # The surface last: what of it goes from then on is noted.
                self._unmapped, self._black, self._front = None, False, surface
                self._publish(fault=0, fault_address=0)
        self._publish(
            status=status,
            sequence=description.sequence,
            flip_time=self._clock(),
            flip_vblank=vblank,
            vblank=vblank,
            vblank_time=vblank * PERIOD,
        )

    def _runs(self, slot: int, count: int) -> bytes:
        if not 0 < count <= layout.SURFACE_MAX_RUNS:
            raise invalid(f"{count} runs of a surface")
        at = layout.SHARED_SURFACE_RUNS + slot * layout.SURFACE_MAX_RUNS * _RUN
        return bytes(self._shared[at : at + count * _RUN])

    def _check_unmapped(self) -> None:
        with self._noting:
            gone, self._unmapped = self._unmapped, None
        with self._shown:
            front = self._front
            if gone is None or front is None or self._black:
                return
            try:
                front.touch(*gone, self._read)
            except AccessRefused as refusal:
                self._lose(refusal.fault)
            except ConnectionLost:
                return

    def _take_cursor(self) -> None:
        if not self._load_cursor:
            return
        self._load_cursor = False
        raw = self._shared[_CURSOR : _CURSOR + ctypes.sizeof(layout.Cursor)]
        description = layout.Cursor.from_buffer_copy(raw)
        status, cursor = NtStatus.SUCCESS, None
        try:
            cursor = self._cursor_of(description)
        except Refused as refusal:
            status = refusal.status
        except AccessRefused as refusal:
            self._on_fault(refusal.fault)
            status = NtStatus.UNSUCCESSFUL
        except ConnectionLost:
            return
        self._cursor = cursor
        self._publish(cursor_status=status)
        self._interrupt()

    def _cursor_of(self, description: layout.Cursor) -> Cursor | None:
        flags = description.flags
        if flags & ~_CURSOR_FLAGS:
            raise invalid(f"flags {flags:#x} of a cursor")
        if max(description.hot_x, description.hot_y) >= layout.CURSOR_SIDE:
            raise invalid(f"a hot spot at {description.hot_x}, {description.hot_y}")
        if not flags & layout.CURSOR_VISIBLE:
            return None
        if flags & layout.CURSOR_MEMORY:
            messages = bool(flags & layout.CURSOR_MESSAGES)
            data = bytearray(layout.CURSOR_SIDE**2 * 4)
            for number, page in enumerate(description.pages):
                at = number * _PAGE
                self._read(page, memoryview(data)[at : at + _PAGE], messages)
        else:
            at = layout.SHARED_CURSOR_PICTURE
            data = bytearray(self._shared[at : at + layout.CURSOR_SIDE**2 * 4])
        from vdxgk.display.cursor import Cursor  # noqa: PLC0415 - numpy, which starts slowly

        return Cursor.of(bytes(data), description.hot_x, description.hot_y)

    # ---- viewers -------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether the pipe has the screen."""
        return bool(self._control & layout.SCANOUT_ENABLE)

    @property
    def blank(self) -> bool:
        """Whether the screen is black."""
        blank = self._control & layout.SCANOUT_BLANK
        return bool(blank) or self._front is None or self._black

    @property
    def format(self) -> PixelFormat | None:
        """How the surface's pixels lie in memory; None before the first flip."""
        front = self._front
        return front.format if front else None

    @property
    def cursor(self) -> Cursor | None:
        """The cursor, if it is to be seen."""
        return self._cursor if self._front is not None else None

    @property
    def position(self) -> tuple[int, int]:
        """Where the cursor's hot spot is: x and y in pixels, negative ones too."""
        x, y = struct.unpack("<hh", struct.pack("<I", self._position))
        return x, y

    def size(self) -> tuple[int, int] | None:
        """Width and height of what is shown; None before the first flip."""
        front = self._front
        return (front.width, front.height) if front else None

    def look(self, with_cursor: bool, room: Room) -> Pixels | None:
        """What is shown now, its pixels mostly in ``room``; None before the first flip."""
        with self._shown:
            front, cursor = self._front, self._cursor
            if front is None:
                return None
            words = None if self._control & layout.SCANOUT_BLANK else self._words(front, room)
        if words is not None and cursor and with_cursor:
            cursor.draw(words, front.format, *self.position)
        return Pixels(front.width, front.height, front.format, words)

    def _words(self, front: Surface, room: Room) -> Words | None:
        if self._black:
            return None

        def read(address: int, target: memoryview, messages: bool) -> None:
            if self._front is not front:
                raise _TurnedOff
            self._read(address, target, messages)

        try:
            return front.read(read, room.take(front.size))
        except AccessRefused as refusal:
            self._lose(refusal.fault)
        except (_TurnedOff, ConnectionLost):
            pass
        return None

    def _lose(self, fault: Fault) -> None:
        """The surface could not be read: black until the next flip, and told once."""
        self._black = True
        self._on_fault(fault)
        self._publish(fault=fault.info, fault_address=fault.address)
        self._interrupt()

    def _publish(self, **values: int) -> None:
        with self._publishing:
            state = self._state
            for name, value in values.items():
                setattr(state, name, value)
            state.version = (state.version + 2) & 0xFFFFFFFE
            raw = bytes(state)
            # Odd while the rest is not complete.
            struct.pack_into("<I", self._shared, _STATE, state.version - 1 & 0xFFFFFFFF)
            self._shared[_STATE + 4 : _STATE + len(raw)] = raw[4:]
            struct.pack_into("<I", self._shared, _STATE, state.version)
