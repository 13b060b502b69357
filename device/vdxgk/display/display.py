"""The display adapter: framebuffer, registers, and the picture that they make."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvfio_user import SharedMemory
from vdxgk.display.edid import Mode, edid
from vdxgk.display.pipe import DisplayPipe
from vdxgk.display.registers import DisplayRegisters
from vdxgk.display.scanout import PixelFormat

if TYPE_CHECKING:
    from vdxgk.display.pixels import Picture, Room, Words

DEFAULT_MODE = Mode(1280, 800)


@dataclass(frozen=True, slots=True)
class Screen:
    """What is to be seen: pixels of a format, or black (None).  Sizes in pixels."""

    width: int
    height: int
    format: PixelFormat | None


class Display:
    """``framebuffer`` and ``registers`` are the guest's side; :meth:`picture` is a person's.

    While ``pipe`` is enabled, the screen shows its surface; else what the registers say.
    A blank screen is a black picture: of the size that these hold, or else of
    the preferred mode.
    """

    pipe: DisplayPipe | None = None

    def __init__(self, vram: int, preferred: Mode = DEFAULT_MODE) -> None:
        """``vram`` in bytes, as in AdapterOptions."""
        self.preferred = preferred
        self.framebuffer = SharedMemory(vram, "vdxgk-framebuffer")
        self.registers = DisplayRegisters(edid(preferred), vram)
        self._encoding = threading.Lock()

    def reset(self) -> None:
        """The machine was reset: nothing is shown.  Pixels stay, as on real adapters."""
        self.registers.reset()

    def forget(self) -> None:
        """The guest is gone: the next one finds nothing of its pixels."""
        self.registers.reset()
        self.framebuffer.clear()

    def size(self) -> tuple[int, int]:
        """Width and height of the screen now, in pixels."""
        if self.pipe and self.pipe.enabled:
            size = self.pipe.size()
        else:
            area = self.registers.scanout()
            size = (area.width, area.height) if area else None
        return size or (self.preferred.width, self.preferred.height)

    def look(
        self, with_cursor: bool = True, room: Room | None = None
    ) -> tuple[Screen, Words | None]:
        """What is to be seen now, and its pixels; None for black.

        Pixels may be the framebuffer's own, in place; others are in ``room``, or in a new one.
        """
        from vdxgk.display.pixels import Room, raw_words  # noqa: PLC0415 - numpy: slow to start

        if self.pipe and self.pipe.enabled:
            shown = self.pipe.look(with_cursor, room or Room())
            if shown is not None:
                black = shown.words is None
                screen = Screen(shown.width, shown.height, None if black else shown.format)
                return screen, shown.words
            area = None
        else:
            area = self.registers.scanout()
        if area is None:
            return Screen(self.preferred.width, self.preferred.height, None), None
        if self.registers.blank:
            return Screen(area.width, area.height, None), None
        words = raw_words(self.framebuffer.view, area)
        return Screen(area.width, area.height, area.format), words

    def picture(self) -> Picture:
        """What is on the screen now; a copy."""
        from vdxgk.display.pixels import black, to_picture  # noqa: PLC0415 - numpy again

        screen, words = self.look()
        if words is None or screen.format is None:
            return black(screen.width, screen.height)
        return to_picture(words, screen.format)

    def png(self) -> bytes:
        """The picture as a PNG file.  One at a time, which bounds the memory that it takes."""
        from PIL import Image  # noqa: PLC0415 - as slow

        with self._encoding:
            stream = io.BytesIO()
            Image.fromarray(self.picture()).save(stream, "PNG", compress_level=1)
            return stream.getvalue()
