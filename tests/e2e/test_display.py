"""Stock firmware and stock drivers on our display, pixel by pixel as on QEMU's bochs-display."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.screens import (
    SLOT,
    FirmwareMachine,
    TakePicture,
    bochs_display,
    lit,
    screendump,
    screenshot,
    settle,
)
from tests.e2e.viewing import type_in
from tests.unit.vdxgk.vnc.viewer import DESKTOP_SIZE, ZRLE, SocketViewer
from vdxgk.display.pixels import Picture
from vdxgk_lab import firmware, guest_program, initramfs, trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.cache import Cache
from vdxgk_lab.command_line import Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import LabError
from vdxgk_lab.machine import Machine
from vdxgk_lab.progress import Reporter
from vdxgk_lab.pytest_plugin import StartDevice
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.viewer_input import ViewerInput

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODE = "1024x768"
SHAPE = (768, 1024, 3)
INTEL = ("-device", "intel-iommu,intremap=on,caching-mode=on")
SOME_TEXT = 1000
"""Lit pixels of a few lines of text."""


@pytest.fixture(scope="session")
def ovmf() -> Path:
    """UEFI firmware."""
    try:
        tree = trees.ensure(trees.OVMF, Cache(), Reporter())
    except LabError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return tree.root / "usr/share/qemu/OVMF.fd"


def vfio_user(device: DeviceProcess) -> list[str]:
    socket = {"type": "unix", "path": str(device.socket)}
    return ["-device", json.dumps({"driver": "vfio-user-pci", "socket": socket, "addr": SLOT})]


# ---- firmware ----------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """The same firmware on both adapters, each with a file that it writes messages to."""

    theirs: TakePicture
    ours: TakePicture
    messages: tuple[Path, Path]

    def both_said(self, words: bytes) -> bool:
        return all(words in path.read_bytes() for path in self.messages)


@contextlib.contextmanager
def firmware_pair(
    artifacts: Artifacts, directory: Path, device: DeviceProcess, *common: str
) -> Iterator[Pair]:
    """Start both; `{messages}` in an argument is the name of the file."""
    with contextlib.ExitStack() as stack:
        machines, messages = [], []
        for name, adapter in (("theirs", bochs_display(MODE)), ("ours", vfio_user(device))):
            place = directory / name
            place.mkdir()
            messages.append(place / "messages")
            words = [word.format(messages=messages[-1]) for word in common]
            machine = FirmwareMachine(artifacts.qemu, place, [*words, *adapter])
            machines.append(stack.enter_context(machine))
        theirs = screendump(machines[0].qmp, directory)
        yield Pair(theirs, screenshot(device), (messages[0], messages[1]))


@pytest.mark.parametrize("iommu", [(), INTEL], ids=["no IOMMU", "intel"])
def test_seabios(
    vdxgk_artifacts: Artifacts,
    vdxgk_run: RunDirectory,
    vdxgk_start_device: StartDevice,
    tmp_path: Path,
    iommu: tuple[str, ...],
) -> None:
    rom = firmware.rom_options(vdxgk_artifacts.qemu)
    assert rom, "this QEMU has no vgabios-bochs-display.bin"
    device = vdxgk_start_device("--mode", MODE, *rom)
    debug = ("-chardev", "file,id=debug,path={messages}")
    console = ("-device", "isa-debugcon,iobase=0x402,chardev=debug")
    with firmware_pair(
        vdxgk_artifacts, vdxgk_run.path, device, *iommu, *debug, *console
    ) as screens:
        picture = settle(
            screens.theirs,
            screens.ours,
            lambda shown: screens.both_said(b"No bootable device") and lit(shown) > SOME_TEXT,
        )
    assert picture.shape == SHAPE

    # Its guest is gone, and its pixels with it.
    command = [sys.executable, "-m", "vdxgk", "screenshot", str(device.control)]
    file = tmp_path / "screen.png"
    subprocess.run([*command, str(file)], check=True)
    with Image.open(file) as image:
        assert (image.format, image.size) == ("PNG", (1024, 768))
        assert not np.asarray(image).any()


def test_ovmf_behind_an_iommu(
    vdxgk_artifacts: Artifacts,
    vdxgk_run: RunDirectory,
    vdxgk_start_device: StartDevice,
    ovmf: Path,
) -> None:
    device = vdxgk_start_device("--mode", MODE)  # UEFI brings its own driver: no boot ROM
    with firmware_pair(
        vdxgk_artifacts,
        vdxgk_run.path,
        device,
        *("-bios", str(ovmf), "-serial", "file:{messages}"),
        *INTEL,
    ) as screens:
        picture = settle(
            screens.theirs,
            screens.ours,
            lambda shown: screens.both_said(b"Shell> ") and lit(shown) > SOME_TEXT,
        )
    assert picture.shape == SHAPE


# ---- Linux ---------------------------------------------------------------------


@dataclass(frozen=True)
class Screen:
    """A guest and its screen."""

    machine: Machine
    take: TakePicture
    device: DeviceProcess | None = None

    def run(self, *command: str) -> None:
        self.machine.guest.run(command).check()

    def shell(self, script: str) -> None:
        self.run("sh", "-c", script)


@dataclass(frozen=True)
class Screens:
    """The same guest on QEMU's adapter, on ours, and on ours behind an IOMMU."""

    theirs: Screen
    bare: Screen
    remapped: Screen

    def everywhere(self, *command: str) -> None:
        for screen in (self.theirs, self.bare, self.remapped):
            screen.run(*command)

    def same(self) -> Picture:
        settle(self.theirs.take, self.bare.take)
        return settle(self.theirs.take, self.remapped.take)


@contextlib.contextmanager
def linux_screens(made: Artifacts, kernel: trees.Kernel, root: Path) -> Iterator[Screens]:
    """Linux with its own bochs driver, three times."""
    tree = trees.ensure(trees.GUESTS[kernel], Cache(), Reporter())
    draw = guest_program.ensure(Path(__file__).with_name("drmpattern.c"), tree, Cache())
    payload = initramfs.Payload(programs=(draw,), kernel_modules=("bochs",))
    made = replace(made, initramfs=initramfs.ensure(tree, payload, Cache()))
    with RunDirectory("display", root / "results") as run, contextlib.ExitStack() as stack:

        def boot(name: str, config: MachineConfig) -> Machine:
            small = replace(config, memory=256 << 20)
            return stack.enter_context(Machine(small, made, run.path, name))

        def ours(name: str, iommu: Iommu) -> Screen:
            options = ["--mode", MODE, *firmware.rom_options(made.qemu)]
            options += ["--vnc", str(run.path / f"{name}.vnc")]
            device = stack.enter_context(DeviceProcess(run.path, options, f"{name}-device"))
            config = MachineConfig(iommu=iommu, devices=(device.socket,))
            return Screen(boot(name, config), screenshot(device), device)

        bochs = MachineConfig(iommu="none", qemu_args=tuple(bochs_display(MODE)))
        reference = boot("theirs", bochs)
        yield Screens(
            Screen(reference, screendump(reference.qmp, run.path)),
            ours("bare", "none"),
            ours("remapped", "intel"),
        )


@pytest.fixture(scope="module")
def screens(vdxgk_artifacts: Artifacts, request: pytest.FixtureRequest) -> Iterator[Screens]:
    root = request.config.rootpath
    with linux_screens(vdxgk_artifacts, trees.DEFAULT_KERNEL, root) as screens:
        yield screens


COLOURS = r"""
{
	printf '\033[?25l\033[2J\033[H'
	for colour in 0 1 2 3 4 5 6 7; do
		printf '\033[3%d;1mbright \033[0;3%dmdark \033[7mreverse\033[0m\n' $colour $colour
	done
	seq -s ' ' 1 800
} >/dev/tty1
"""


def test_the_linux_text_console(screens: Screens) -> None:
    screens.everywhere("sh", "-c", COLOURS)
    # The last lines, drawn when the driver gets to it.
    picture = settle(screens.theirs.take, screens.bare.take, lambda shown: lit(shown) > 30_000)
    assert picture.shape == SHAPE
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 16
    assert np.array_equal(screens.same(), picture)


def test_a_blank_screen_is_black_and_comes_back(screens: Screens) -> None:
    screens.everywhere("sh", "-c", COLOURS)
    before = screens.same()
    screens.remapped.shell("echo 4 >/sys/class/graphics/fb0/blank")
    blank = screens.remapped.take()
    assert blank.shape == SHAPE
    assert not blank.any()
    screens.remapped.shell("echo 0 >/sys/class/graphics/fb0/blank")
    assert np.array_equal(settle(lambda: before, screens.remapped.take), before)


@pytest.mark.parametrize(
    "arguments",
    ["640 480", "1280 720", "1152 864", "1000 700 1200 900 33 44"],
    ids=["640x480", "1280x720", "1152x864", "panned"],
)
def test_graphics_drawn_through_drm(screens: Screens, arguments: str) -> None:
    words = arguments.split()
    screens.everywhere("drmpattern", *words)
    try:
        picture = screens.same()
        assert picture.shape == (int(words[1]), int(words[0]), 3)
        assert lit(picture) > 0.99 * picture.shape[0] * picture.shape[1]
    finally:
        screens.everywhere("killall", "drmpattern")


def test_the_newest_kernel(
    vdxgk_prepare: Callable[[trees.Kernel], Artifacts], request: pytest.FixtureRequest
) -> None:
    """Text and graphics once more: its driver is another one inside."""
    kernel = trees.KERNELS[-1]
    with linux_screens(vdxgk_prepare(kernel), kernel, request.config.rootpath) as screens:
        screens.everywhere("sh", "-c", COLOURS)
        settle(screens.theirs.take, screens.bare.take, lambda shown: lit(shown) > 30_000)
        assert screens.same().shape == SHAPE
        for mode in ("640 480", "1280 720"):
            screens.everywhere("drmpattern", *mode.split())
            picture = screens.same()
            assert " ".join(map(str, picture.shape[1::-1])) == mode
            assert lit(picture) > 0.99 * picture.shape[0] * picture.shape[1]
            screens.everywhere("killall", "drmpattern")


WORDS = 'Is-6*7=42?yes;"quite"!'
"""Without a space, whose echo nobody would see."""


def test_a_person_with_a_vnc_viewer_sees_the_screen_and_types(screens: Screens) -> None:
    screen = screens.remapped
    device = screen.device
    assert device
    screen.shell(COLOURS)
    screen.shell("rm -f /run/typed; head -n 1 </dev/tty1 >/run/typed 2>&1 &")
    viewer = SocketViewer(str(device.control.with_name("remapped.vnc")))
    viewer.encodings(ZRLE, DESKTOP_SIZE)

    def seen() -> Picture:
        viewer.request(incremental=False)
        return viewer.update()

    with contextlib.closing(viewer.socket), ViewerInput(device.control, screen.machine.qmp):
        before = settle(screen.take, seen).copy()
        type_in(viewer, WORDS)
        # The file is written when the line is complete.
        wait = "until [ -s /run/typed ]; do sleep 0.1; done; cat /run/typed"
        answer = screen.machine.guest.run(["sh", "-c", wait]).check()
        assert answer.stdout == WORDS + "\n"
        after = settle(screen.take, seen, lambda shown: not np.array_equal(shown, before))
        assert after.shape == SHAPE


def test_vncdotool_sees_the_screen_and_types(screens: Screens, tmp_path: Path) -> None:
    """A client that others wrote, at our server's socket."""
    screen = screens.remapped
    device = screen.device
    assert device
    door = str(device.control.with_name("remapped.vnc"))
    command = [
        str(Path(sys.executable).with_name("vncdo")),
        "--server",
        door,
        "--nocursor",
        "--force-caps",
    ]
    file = tmp_path / "seen.png"

    def seen() -> Picture:
        subprocess.run([*command, "capture", str(file)], check=True, capture_output=True)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))

    screen.shell(COLOURS)
    screen.shell("rm -f /run/typed; head -n 1 </dev/tty1 >/run/typed 2>&1 &")
    assert settle(screen.take, seen, lambda shown: lit(shown) > 30_000).shape == SHAPE
    with ViewerInput(device.control, screen.machine.qmp):
        # One key at a time: QEMU's keyboard has little room, and a busy guest empties it late.
        for pressed in (["type", "o"], ["type", "K"], ["key", "enter"]):
            subprocess.run([*command, *pressed], check=True, capture_output=True)
        wait = "until [ -s /run/typed ]; do sleep 0.1; done; cat /run/typed"
        assert screen.machine.guest.run(["sh", "-c", wait]).check().stdout == "oK\n"
