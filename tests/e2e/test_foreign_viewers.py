"""Viewers that others wrote, in front of one guest: each shows the same, and takes keys.

TigerVNC and vncdotool at the VNC door, and the page in Chromium.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.browser import Browser
from tests.e2e.screens import lit, settle
from tests.e2e.test_scanout import picture
from tests.e2e.test_viewers import booted, wait_for
from tests.e2e.tigervnc import TigerVnc, place, tigervnc
from tests.e2e.web_page import CANVAS, Page
from vdxgk.display.pixels import Picture
from vdxgk_lab import trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import LabError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.trees import Recipe, Tree

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SOME_TEXT = 1000
"""Lit pixels of a few lines of text."""
WIDTH, HEIGHT, PITCH = 640, 480, 4 * 640 + 3
SIZE = -(-PITCH * HEIGHT // 4096) * 4096


@dataclass(frozen=True)
class Viewers:
    """All of them, and what they look at."""

    page: Page
    tiger: TigerVnc
    door: Path
    scratch: Path

    def vncdo(self, *words: str) -> None:
        """vncdotool's command; it connects, acts and goes."""
        program = str(Path(sys.executable).with_name("vncdo"))
        command = [program, "--server", str(self.door), "--nocursor", "--force-caps", *words]
        subprocess.run(command, check=True, capture_output=True)

    def captured(self) -> Picture:
        """What vncdotool sees."""
        file = self.scratch / "captured.png"
        self.vncdo("capture", str(file))
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))

    def objects(self) -> list[dict[str, Any]]:
        held: list[dict[str, Any]] = self.page.status()["objects"]
        return held


def tree(recipe: Recipe) -> Tree:
    try:
        return trees.ensure(recipe, Cache(), Reporter())
    except LabError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def viewers(
    vdxgk_artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Viewers]:
    """`vdxgk boot --vnc --web`, and three viewers of it."""
    assert vdxgk_artifacts.initramfs.exists()
    scratch = tmp_path_factory.mktemp("viewers")
    foreign, chromium = tree(trees.TIGERVNC), tree(trees.CHROMIUM)
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(place(foreign)) / "screen"
        options = ("--memory=512M", "--web", f"--vnc={door}")
        lines = stack.enter_context(booted(scratch, *options))
        url = wait_for(lines, b"Open http").split()[1].decode()
        [control] = scratch.glob("vdxgk-*/device.control")
        browser = stack.enter_context(Browser(chromium, scratch / "browser.log"))
        browser.open(url)
        tiger = stack.enter_context(tigervnc(foreign, door, scratch / "tigervnc.log"))
        wait_for(lines, b"vdxgk guest:")
        browser.wait(f"{CANVAS}?.width === 1024")
        yield Viewers(Page(browser, control, lines), tiger, door, scratch)


def test_each_shows_the_text_and_the_picture_and_takes_keys(viewers: Viewers) -> None:
    page = viewers.page

    def some_text(shown: Picture) -> bool:
        return lit(shown) > SOME_TEXT

    for take in (viewers.tiger.picture, viewers.captured, page.picture):
        settle(page.adapters_picture, take, some_text)

    # An object, by TigerVNC's keys.
    viewers.tiger.type(f"dxgkctl create --type mdl --size {SIZE} --limit 1")
    page.browser.wait("document.querySelectorAll('#objects tbody').length === 1")
    [held] = viewers.objects()
    assert held["run_count"] > 100

    # A list that leads to it, by vncdotool's: one key at a time, since QEMU's keyboard has
    # little room.
    command = f"dxgkctl adl {held['adapter_object']} --size {SIZE} --limit 1 --prefer-contiguous"
    viewers.vncdo("--delay=150", "type", command, "key", "enter")
    page.browser.wait("document.querySelectorAll('#objects [data-list]').length === 1")
    page.browser.wait("!document.querySelector('#objects .state')")

    # The picture, drawn by the guest's CPU into scattered pages, by the browser's.
    shape = f"--width {WIDTH} --height {HEIGHT} --pitch {PITCH}"
    page.browser.evaluate("document.getElementById('type').click()")
    page.type(f"dxgkctl pattern {held['handle']} {shape} --seed 1")
    page.type(f"dxgkctl present 1 {shape}")  # the driver's first list
    expected = picture(WIDTH, HEIGHT, 1)
    page.browser.wait(f"{CANVAS}.width === {WIDTH}")
    for take in (viewers.tiger.picture, viewers.captured, page.picture, page.adapters_picture):
        settle(lambda: expected, take)
    assert not page.browser.messages
