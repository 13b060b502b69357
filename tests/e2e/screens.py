"""A guest's screen: on QEMU's own bochs-display, and on ours."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vdxgk.control import ask
from vdxgk.display.pixels import Picture
from vdxgk_lab import timeouts
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qemu_process import QemuProcess
from vdxgk_lab.qmp import QmpPeer

SLOT = "05.0"
_SETTLE_SECONDS = 60
_POLL_SECONDS = 0.1

TakePicture = Callable[[], Picture]


def bochs_display(mode: str) -> list[str]:
    """QEMU's own adapter, where ours would be, with a preferred mode."""
    width, height = mode.split("x")
    return ["-device", f"bochs-display,addr={SLOT},xres={width},yres={height}"]


def screendump(qmp: QmpPeer, directory: Path) -> TakePicture:
    """What QEMU thinks is on the screen."""
    path = directory / "screendump.ppm"

    def take() -> Picture:
        qmp.execute("screendump", {"filename": str(path)})
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    return take


def screenshot(device: DeviceProcess) -> TakePicture:
    """What our adapter thinks is on the screen."""

    def take() -> Picture:
        png = base64.b64decode(ask(str(device.control), "screenshot", timeout=60)["png"])
        with Image.open(io.BytesIO(png)) as image:
            return np.asarray(image.convert("RGB"))

    return take


def settle(
    theirs: TakePicture, ours: TakePicture, ready: Callable[[Picture], bool] = lambda _: True
) -> Picture:
    """Wait until QEMU shows what was waited for, and we the same picture, which is answered.

    Guests draw when they get to it, and cursors blink. Fails with where the
    pictures differ.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS * timeouts.scale(emulated=True)
    while True:
        reference, picture = theirs(), ours()
        if ready(reference) and np.array_equal(reference, picture):
            return picture
        if time.monotonic() > deadline:
            raise AssertionError(difference(reference, picture))
        time.sleep(_POLL_SECONDS)


def lit(picture: Picture) -> int:
    """How many pixels are not black."""
    return int(picture.any(axis=2).sum())


def difference(reference: Picture, picture: Picture) -> str:
    """How two pictures differ, in words."""
    sizes = [f"{shape[1]}x{shape[0]}" for shape in (reference.shape, picture.shape)]
    if reference.shape != picture.shape:
        return f"QEMU shows {sizes[0]}, we show {sizes[1]}"
    rows, columns = np.nonzero((reference != picture).any(axis=2))
    if not len(rows):
        return f"both show the same {sizes[0]}, but not what was waited for"
    first = int(rows[0]), int(columns[0])
    return (
        f"{len(rows)} pixels of {sizes[0]} differ, rows {rows.min()} to {rows.max()}, columns "
        f"{columns.min()} to {columns.max()}; at row {first[0]}, column {first[1]} QEMU shows "
        f"{reference[first].tolist()}, we show {picture[first].tolist()}"
    )


class FirmwareMachine(QemuProcess):
    """A machine with firmware and nothing to boot."""

    def __init__(self, qemu: QemuBinary, directory: Path, arguments: Sequence[str]) -> None:
        """`directory` takes QEMU's log and what the firmware writes to its serial port."""
        super().__init__(qemu, directory, "firmware", timeouts.scale(emulated=True))
        self._more = arguments

    def _arguments(self) -> list[str]:
        return [
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"),
            *("-machine", "q35,memory-backend=ram", "-accel", "tcg", "-m", "256"),
            *("-object", "memory-backend-memfd,id=ram,size=256M,share=on"),
            *self._more,
        ]
