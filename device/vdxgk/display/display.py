"""The display adapter: framebuffer, registers, and the picture that they make."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pyvfio_user import SharedMemory
from vdxgk.display.edid import Mode, edid
from vdxgk.display.pixels import Picture, raw_words, to_picture
from vdxgk.display.registers import DisplayRegisters
from vdxgk.display.scanout import Scanout

DEFAULT_MODE = Mode(1280, 800)


@dataclass(frozen=True, slots=True)
class Screen:
    """What is to be seen: a rectangle of the framebuffer, or black.  Sizes in pixels."""

    width: int
    height: int
    area: Scanout | None


class Display:
    """``framebuffer`` and ``registers`` are the guest's side; :meth:`picture` is a person's.

    A blank screen is a black picture: of the size that the registers hold,
    or else of the preferred mode.
    """

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

    def screen(self) -> Screen:
        """What is to be seen now."""
        area = self.registers.scanout()
        if area is None:
            return Screen(self.preferred.width, self.preferred.height, None)
        return Screen(area.width, area.height, None if self.registers.blank else area)

    def picture(self) -> Picture:
        """What is on the screen now; a copy."""
        screen = self.screen()
        if screen.area is None:
            return np.zeros((screen.height, screen.width, 3), np.uint8)
        return to_picture(raw_words(self.framebuffer.view, screen.area), screen.area.format)

    def png(self) -> bytes:
        """The picture as a PNG file.  One at a time, which bounds the memory that it takes."""
        with self._encoding:
            stream = io.BytesIO()
            Image.fromarray(self.picture()).save(stream, "PNG", compress_level=1)
            return stream.getvalue()
