"""Surfaces in a guest's memory, drawn by its CPU and shown by the device, pixel by pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.e2e.conftest import Bench
from tests.e2e.screens import difference, screenshot
from vdxgk.display.pixels import Picture
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.proof.stub import Stub, StubRefused
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FORMATS = {"xrgb8888": 4, "argb8888": 4, "rgb565": 2}


def words(width: int, height: int, seed: int) -> NDArray[np.uint32]:
    """What dxgkctl's pattern.c draws: a word for each pixel."""
    x = np.arange(width, dtype=np.uint32) * np.uint32(0x9E3779B1)
    y = np.arange(height, dtype=np.uint32) * np.uint32(0x85EBCA77)
    word = (x[None, :] ^ y[:, None]) + np.uint32(seed * 0xC2B2AE3D & 0xFFFFFFFF)
    return word ^ word >> np.uint32(15)


def picture(width: int, height: int, seed: int, pixel_format: str = "xrgb8888") -> Picture:
    """The same as red, green and blue, by arithmetic of its own."""
    word = words(width, height, seed)
    if pixel_format == "rgb565":
        red, green, blue = word >> 11 & 31, word >> 5 & 63, word & 31
        channels = [red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2]
    else:
        channels = [word >> 16 & 255, word >> 8 & 255, word & 255]
    return np.stack(channels, axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class Surface:
    """An object and a list that leads to it, for a picture of a certain shape."""

    stub: Stub
    object: str
    adapter_object: str
    adl: str
    runs: int
    shape: tuple[str, ...]

    def draw(self, seed: int) -> None:
        self.stub.call("pattern", self.object, *self.shape, "--seed", str(seed))

    def present(self, *more: str) -> dict[str, Any]:
        return self.stub.call("present", self.adl, *self.shape, *more)

    def free(self) -> None:
        self.stub.call("free", self.adl)


@contextlib.contextmanager
def surface(
    stub: Stub,
    width: int,
    height: int,
    pixel_format: str = "xrgb8888",
    *,
    contiguous: bool = True,
    padding: int = 3,
) -> Iterator[Surface]:
    """A scattered one; `padding` bytes end a line."""
    pitch = width * FORMATS[pixel_format] + padding
    size = str(-(-pitch * height // 4096) * 4096)
    made = stub.call("create", "--type", "mdl", "--size", size, "--limit", "1")
    wish = ["--prefer-contiguous"] if contiguous else []
    adl = stub.call("adl", made["adapter_object"], "--size", size, "--limit", "1", *wish)
    assert adl["contiguous"] == contiguous
    shape = ("--width", str(width), "--height", str(height), "--pitch", str(pitch))
    try:
        yield Surface(
            stub,
            made["object"],
            made["adapter_object"],
            str(adl["adl"]),
            made["run_count"],
            (*shape, "--format", pixel_format),
        )
    finally:
        stub.call("screen", "return")
        with contextlib.suppress(StubRefused):
            stub.call("free", str(adl["adl"]))
        stub.call("destroy", made["object"], made["adapter_object"])


def check(device: DeviceProcess, expected: Picture) -> None:
    shown = screenshot(device)()
    assert np.array_equal(shown, expected), difference(expected, shown)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (3840, 2160)], ids=str)
def test_a_pattern_in_scattered_remapped_memory(
    bench: Bench, width: int, height: int, pixel_format: str
) -> None:
    with surface(bench.stub, width, height, pixel_format) as shown:
        assert shown.runs > 100
        shown.draw(1)
        flip = shown.present()
        assert (flip["sequence"], flip["enabled"]) == (flip["presented"], True)
        check(bench.device, picture(width, height, 1, pixel_format))


def test_through_messages_and_an_array_of_pages(bench: Bench) -> None:
    with surface(bench.stub, 640, 480, contiguous=False) as shown:
        shown.draw(2)
        shown.present("--messages")
        check(bench.device, picture(640, 480, 2))


def test_physical_mode(vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine) -> None:
    device = vdxgk_start_device()
    config = MachineConfig(memory=512 << 20, iommu="none", devices=(device.socket,))
    stub = Stub(vdxgk_start_machine(config).guest)
    with surface(stub, 640, 480, contiguous=False) as shown:
        assert shown.runs > 100
        shown.draw(3)
        shown.present()
        check(device, picture(640, 480, 3))


def test_the_screen_goes_back_to_the_framebuffer(bench: Bench) -> None:
    before = screenshot(bench.device)()
    with surface(bench.stub, 640, 480) as shown:
        shown.draw(1)
        shown.present()
        bench.stub.call("screen", "blank")
        check(bench.device, np.zeros((480, 640, 3), np.uint8))
        bench.stub.call("screen", "show")
        check(bench.device, picture(640, 480, 1))
        bench.stub.call("screen", "return")
        check(bench.device, before)


def test_every_picture_is_one_of_those_that_were_presented(bench: Bench) -> None:
    """Drawn in turn into two surfaces, while somebody looks all the time."""
    with surface(bench.stub, 640, 480) as first, surface(bench.stub, 640, 480) as second:
        count = 40
        surfaces = [first.adl, second.adl, first.object, second.object]
        command = ["dxgkctl", "flip", *surfaces, *first.shape, "--count", str(count)]
        script = " ".join(command) + " >/run/flips 2>&1; echo done >>/run/flips"
        bench.guest.run(["sh", "-c", f"({script}) >/dev/null 2>&1 &"]).check()
        seen: set[int] = set()
        by_first_pixel = {tuple(picture(1, 1, seed)[0, 0]): seed for seed in range(count)}
        while "done" not in bench.guest.run(["cat", "/run/flips"]).stdout:
            shown = screenshot(bench.device)()
            if not seen and not shown.any():
                continue  # before the first
            seed = by_first_pixel[tuple(shown[0, 0])]
            expected = picture(640, 480, seed)
            assert np.array_equal(shown, expected), difference(expected, shown)
            seen.add(seed)
        check(bench.device, picture(640, 480, count - 1))
        assert len(seen) > 2


def test_a_list_that_is_freed_while_it_is_shown(bench: Bench) -> None:
    def faults() -> list[dict[str, Any]]:
        return [event for event in bench.stub.events() if event["type"] == "fault"]

    with surface(bench.stub, 640, 480) as shown:
        shown.draw(4)
        shown.present()
        before = len(faults())
        shown.free()  # nobody looks: the device notices by itself
        for _ in range(2):
            check(bench.device, np.zeros((480, 640, 3), np.uint8))
        assert len(faults()) == before + 1
        state = bench.stub.call("screen")
        assert int(state["fault"], 16) & 0xFF == 1
        assert faults()[-1]["address"] == state["fault_address"]

        # Presenting it again shows nothing of what was there either.
        with pytest.raises(StubRefused):
            shown.present()


def blended(under: Picture, seed: int, left: int, top: int) -> Picture:
    """A cursor over a picture, pixel by pixel."""
    result = under.copy()
    cursor = words(64, 64, seed)
    for y in range(max(0, -top), min(64, under.shape[0] - top)):
        for x in range(max(0, -left), min(64, under.shape[1] - left)):
            word = int(cursor[y, x])
            alpha = word >> 24
            for channel, shift in enumerate((16, 8, 0)):
                below = int(under[top + y, left + x, channel])
                value = (word >> shift & 255) * alpha + below * (255 - alpha)
                result[top + y, left + x, channel] = (value + 127) // 255
    return result


@pytest.mark.parametrize("from_memory", [False, True], ids=["shared", "memory"])
def test_a_cursor(bench: Bench, from_memory: bool) -> None:
    stub = bench.stub
    with surface(stub, 640, 480) as shown, surface(stub, 64, 64, padding=0) as cursor:
        shown.draw(1)
        under = picture(640, 480, 1)
        shown.present()
        cursor.draw(7)
        source = [cursor.adl] if from_memory else ["--seed", "7"]
        place = ("--x", "100", "--y", "50", "--hot-x", "3", "--hot-y", "9")
        stub.call("cursor", "show", *source, *place)
        check(bench.device, blended(under, 7, 97, 41))
        stub.call("cursor", "move", "--x", "-5", "--y", "479")
        check(bench.device, blended(under, 7, -8, 470))
        stub.call("cursor", "hide")
        check(bench.device, under)
