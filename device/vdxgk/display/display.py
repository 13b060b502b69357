"""The display adapter: framebuffer, registers, and the picture that they make."""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image

from pyvfio_user import SharedMemory
from vdxgk.display.edid import Mode, edid
from vdxgk.display.pixels import Picture, raw_pixels, to_picture
from vdxgk.display.registers import DisplayRegisters

DEFAULT_MODE = Mode(1280, 800)


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

    def picture(self) -> Picture:
        """What is on the screen now; a copy."""
        area = self.registers.scanout()
        if area is None:
            return _black(self.preferred.width, self.preferred.height)
        if self.registers.blank:
            return _black(area.width, area.height)
        return to_picture(raw_pixels(self.framebuffer.view, area), area.format)

    def png(self) -> bytes:
        """The picture as a PNG file.  One at a time, which bounds the memory that it takes."""
        with self._encoding:
            stream = io.BytesIO()
            Image.fromarray(self.picture()).save(stream, "PNG", compress_level=1)
            return stream.getvalue()


def _black(width: int, height: int) -> Picture:
    return np.zeros((height, width, 3), np.uint8)
