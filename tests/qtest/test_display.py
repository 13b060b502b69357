"""The display next to QEMU's bochs-display, in one machine: same writes, same picture."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.screens import difference
from tests.unit.vdxgk.raw_guest import serving
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.display import registers
from vdxgk.display.edid import Mode
from vdxgk.display.pixels import Picture
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import COMMAND_MEMORY, MmioWindow, PciFunction
from vdxgk_lab.run_directory import RunDirectory

VRAM = 4 << 20
THEIRS, OURS = 4, 5
ENABLED = 0x41
SHOWN_BEFORE = (640, 480)

Registers = dict[int, int]


def shows(width: int, height: int, bits: int = 32, **more: int) -> Registers:
    """Register values."""
    return {
        registers.DISPI_XRES: width,
        registers.DISPI_YRES: height,
        registers.DISPI_VIRT_WIDTH: more.get("virtual", 0),
        registers.DISPI_VIRT_HEIGHT: 0,
        registers.DISPI_X_OFFSET: more.get("x", 0),
        registers.DISPI_Y_OFFSET: more.get("y", 0),
        registers.DISPI_BPP: bits,
    }


@dataclass
class Both:
    """Two display adapters, in the hands of one processor."""

    machine: QtestMachine
    adapter: Adapter
    framebuffers: tuple[int, int]
    pages: tuple[int, int]
    directory: Path

    def write(self, offset: int, value: int, size: int) -> None:
        """Write a register of both."""
        for page in self.pages:
            self.machine.qtest.store(page + offset, value, size)

    def read(self, offset: int, size: int) -> tuple[int, int]:
        theirs, ours = (self.machine.qtest.load(page + offset, size) for page in self.pages)
        return theirs, ours

    def set(self, values: Registers) -> None:
        """Program DISPI registers of both, little-endian, and enable."""
        self.write(registers.BYTE_ORDER_OFFSET, registers.LITTLE_ENDIAN, 4)
        for index, value in ({registers.DISPI_ENABLE: 0} | values).items():
            self.write(registers.DISPI_OFFSET + 2 * index, value, 2)
        self.write(registers.DISPI_OFFSET + 2 * registers.DISPI_ENABLE, ENABLED, 2)

    def draw(self, content: bytes) -> None:
        for framebuffer in self.framebuffers:
            self.machine.qtest.write(framebuffer, content)

    def theirs(self) -> Picture:
        # QEMU's PPM files are skewed where a line is no multiple of 4 bytes.
        path = self.directory / "screendump.png"
        self.machine.qmp.execute("screendump", {"filename": str(path), "format": "png"})
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def assert_same(self) -> Picture:
        theirs, ours = self.theirs(), self.adapter.display.picture()
        assert theirs.shape == ours.shape, difference(theirs, ours)
        assert np.array_equal(theirs, ours), difference(theirs, ours)
        return ours


@pytest.fixture(scope="module")
def both(qemu: QemuBinary, request: pytest.FixtureRequest) -> Iterator[Both]:
    """Both adapters, their framebuffers full of the same noise."""
    options = AdapterOptions(vram=VRAM, mode=Mode(800, 600))
    with (
        RunDirectory("display", request.config.rootpath / "results") as run,
        serving(run.path, options) as (adapter, path),
    ):
        config = QtestConfig(
            devices=[
                {"driver": "bochs-display", "addr": f"{THEIRS:02x}.0", "vgamem": VRAM},
                vfio_user(path, OURS),
            ]
        )
        with QtestMachine(config, qemu, run.path) as machine:
            window = MmioWindow()
            functions = [PciFunction(machine.qtest, slot) for slot in (THEIRS, OURS)]
            framebuffers, pages = (
                [function.place_bar(bar, window) for function in functions] for bar in (0, 2)
            )
            for function in functions:
                function.command(COMMAND_MEMORY)
            both = Both(
                machine,
                adapter,
                (framebuffers[0], framebuffers[1]),
                (pages[0], pages[1]),
                run.path,
            )
            both.draw(random.Random(0).randbytes(VRAM))
            yield both


MODES = [
    pytest.param(shows(640, 480), id="640x480"),
    pytest.param(shows(1024, 768), id="1024x768"),
    pytest.param(shows(64, 64), id="least"),
    pytest.param(shows(1001, 733), id="odd"),
    pytest.param(shows(1024, 1024), id="all of the memory"),
    pytest.param(shows(1920, 1080, 16), id="1920x1080, 16 bits"),
    pytest.param(shows(641, 479, 16, virtual=778, x=5, y=3), id="panned, 16 bits"),
    pytest.param(shows(640, 480, virtual=1000, x=100, y=200), id="panned, 32 bits"),
    pytest.param(shows(640, 480, virtual=100), id="virtual width less than the width"),
    pytest.param(shows(640, 480, x=640, y=480), id="offsets beyond the line"),
]


@pytest.mark.parametrize("values", MODES)
def test_modes(both: Both, values: Registers) -> None:
    both.set(values)
    size = values[registers.DISPI_YRES], values[registers.DISPI_XRES], 3
    assert both.assert_same().shape == size
    both.write(registers.BYTE_ORDER_OFFSET, registers.BIG_ENDIAN, 4)
    both.assert_same()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(shows(63, 480), id="too narrow"),
        pytest.param(shows(800, 63), id="too low"),
        pytest.param(shows(800, 600, 24), id="24 bits"),
        pytest.param(shows(800, 600, 8), id="8 bits"),
        pytest.param(shows(1024, 1024, y=1), id="one line too far"),
        pytest.param(shows(1024, 1024, x=1), id="one pixel too far"),
        pytest.param(shows(0xFFFF, 0xFFFF, virtual=0xFFFF, x=0xFFFF, y=0xFFFF), id="all ones"),
    ],
)
def test_what_neither_shows(both: Both, values: Registers) -> None:
    both.set(shows(*SHOWN_BEFORE))
    both.assert_same()
    both.set(values)
    # QEMU leaves the window as it was, we turn black.
    assert both.theirs().shape[1::-1] == SHOWN_BEFORE
    picture = both.adapter.display.picture()
    assert picture.shape == (600, 800, 3)
    assert not picture.any()


def test_any_register_values(both: Both) -> None:
    source = random.Random(7)
    shown = 0
    for _ in range(30):
        both.set(shows(*SHOWN_BEFORE))
        both.theirs()
        both.set(
            shows(
                # QEMU aborts where a line of 16 bits a pixel is no multiple of 4 bytes.
                2 * source.choice([source.randrange(25, 700), source.randrange(1 << 15)]),
                source.randrange(50, 1100),
                source.choice([15, 16, 16, 24, 32, 32, 32]),
                virtual=2 * source.choice([0, source.randrange(1000)]),
                x=source.choice([0, source.randrange(300)]),
                y=source.choice([0, source.randrange(300)]),
            )
        )
        if both.adapter.display.registers.scanout():
            both.assert_same()
            shown += 1
        else:
            assert both.theirs().shape[1::-1] == SHOWN_BEFORE
    assert 5 < shown < 25


def test_registers_read_the_same(both: Both) -> None:
    both.set(shows(800, 600, 16, virtual=1000, x=3, y=4))
    for index in range(20):
        theirs, ours = both.read(registers.DISPI_OFFSET + 2 * index, 2)
        assert theirs == ours, index
    for offset in (registers.QEXT_OFFSET, registers.BYTE_ORDER_OFFSET, registers.QEXT_OFFSET + 8):
        theirs, ours = both.read(offset, 4)
        assert theirs == ours, hex(offset)
    both.write(registers.DISPI_OFFSET, 0x1234, 2)
    both.write(registers.DISPI_OFFSET + 2 * registers.DISPI_VIDEO_MEMORY_64K, 1, 2)
    for index in range(registers.DISPI_REGISTERS):
        theirs, ours = both.read(registers.DISPI_OFFSET + 2 * index, 2)
        assert theirs == ours, index
    both.write(registers.DISPI_OFFSET + 2, struct.unpack("<I", struct.pack("<2H", 640, 480))[0], 4)
    assert both.read(registers.DISPI_OFFSET + 4, 2) == (480, 480)


def test_a_reset_shows_nothing_and_keeps_the_pixels(both: Both) -> None:
    both.set(shows(800, 600))
    before = both.assert_same()
    both.machine.reset()
    assert not both.adapter.display.picture().any()
    window = MmioWindow()
    ours = PciFunction(both.machine.qtest, OURS)
    theirs = PciFunction(both.machine.qtest, THEIRS)
    framebuffers, pages = (
        [function.place_bar(bar, window) for function in (theirs, ours)] for bar in (0, 2)
    )
    for function in (theirs, ours):
        function.command(COMMAND_MEMORY)
    assert framebuffers == list(both.framebuffers)
    assert pages == list(both.pages)
    both.set(shows(800, 600))
    assert np.array_equal(both.assert_same(), before)
