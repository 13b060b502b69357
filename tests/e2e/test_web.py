"""The web page, in a real browser, of a real guest."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser
from tests.e2e.screens import lit, settle
from tests.e2e.test_viewers import booted, wait_for
from tests.e2e.web_page import CANVAS, Page, grouped
from vdxgk_lab import trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.cache import Cache
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import LabError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.trees import Tree
from vdxgk_lab.web.server import WebServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SOME_TEXT = 1000
"""Lit pixels of a few lines of text."""


@pytest.fixture(scope="module")
def chromium() -> Tree:
    """The browser's tree."""
    try:
        return trees.ensure(trees.CHROMIUM, Cache(), Reporter())
    except LabError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(
    vdxgk_artifacts: Artifacts, chromium: Tree, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """`vdxgk boot --web`, and its page in a browser."""
    assert vdxgk_artifacts.initramfs.exists()
    directory = tmp_path_factory.mktemp("web")
    with booted(directory, "--memory=512M", "--web") as lines:
        url = wait_for(lines, b"Open http").split()[1].decode()
        with Browser(chromium, directory / "browser.log") as browser:
            browser.open(url)
            [control] = directory.glob("vdxgk-*/device.control")
            page = Page(browser, control, lines)
            wait_for(lines, b"vdxgk guest:")
            yield page


def test_the_picture_is_the_adapters(page: Page) -> None:
    page.browser.wait(f"{CANVAS}?.width === 1024")
    shown = settle(page.adapters_picture, page.picture, lambda shown: lit(shown) > SOME_TEXT)
    assert shown.shape == (768, 1024, 3)
    assert page.texts("#state") == ["live"]
    assert page.texts("#mode") == ["1024\u00d7768 XRGB8888"]
    assert "logical mode" in page.texts("#adapter span")
    assert any(text.startswith("QEMU ") for text in page.texts("#machine span"))


def test_what_is_typed_arrives_and_what_it_does_is_shown(page: Page) -> None:
    page.browser.wait(f"{CANVAS}?.width === 1024")
    page.browser.evaluate("document.getElementById('type').click()")
    assert page.texts("#objects tbody") == []
    page.type("dxgkctl create --type mdl --size 1M")
    page.browser.wait("document.querySelectorAll('#objects tbody').length === 1")
    [held] = page.status()["objects"]
    [shown] = page.texts("#objects tbody")
    for text in ("MDL", "1 MiB", grouped(held["runs"][0][0]), f"{held['run_count']} runs"):
        assert text in shown
    assert "no list" in shown

    page.type(f"dxgkctl adl {held['adapter_object']:#x} --size 1M")
    # A list is seen while it is being mapped, too.
    page.browser.wait("document.querySelector('#objects [data-list]')?.innerText.includes('256')")
    page.browser.wait("!document.querySelector('#objects .state')")
    [held] = page.status()["objects"]
    [adl] = held["lists"]
    assert (adl["state"], adl["announced"]) == ("live", 256)
    start, end = adl["logical"], adl["logical"] + adl["size"]
    [line] = page.texts("#objects [data-list]")
    assert line.split() == [f"{grouped(start)}\u2013{grouped(end)}", "256"]
    titles = page.browser.evaluate(
        "[...document.querySelectorAll('#strip > div')].map((node) => [node.className, node.title])"
    )
    kinds = [kind for kind, _ in titles]
    assert kinds[:4] == ["reserved", "guard", "list", "guard"]
    assert f"{grouped(start)}\u2013{grouped(end)}" in titles[2][1]
    assert any(title.startswith("0xfee0_0000\u20130xfef0_0000") for _, title in titles)

    page.type(f"dxgkctl dma crc32 --source {start:#x} --size 64K")
    page.browser.wait("document.querySelector('#counters').innerText.includes('64 KiB')")
    page.type(f"dxgkctl dma crc32 --source {end:#x} --size 64")
    page.browser.wait("document.querySelectorAll('#faults li').length === 1")
    [fault] = page.texts("#faults li")
    assert fault.split()[1:] == ["read", grouped(end), *["nothing", "is", "mapped", "there"]]
    page.browser.wait("document.title === 'vdxgk: 1 object, 1 fault'")
    assert not page.browser.messages


# An event of the tablet; 16 bytes with the time, then what happened.
POINTED = "head -c 24 /dev/input/event1|od -An -tx2 >/dev/ttyS0"


def test_the_pointer_arrives_and_the_keyboard_is_given_back(page: Page) -> None:
    page.browser.evaluate("document.getElementById('type').click()")
    page.type(POINTED)
    place = page.browser.evaluate(f"{CANVAS}.getBoundingClientRect().toJSON()")
    told = threading.Event()
    words: list[str] = []

    def listen() -> None:
        words.extend(wait_for(page.console, b" 0003 ").decode().split())
        told.set()

    threading.Thread(target=listen, daemon=True).start()
    # The program opens the device when it gets to it.
    for step in itertools.cycle(range(100)):
        page.browser.point(place["x"] + place["width"] / 2 + step, place["y"] + 20)
        if told.wait(0.1):
            break
    # EV_ABS, ABS_X, and a value from 0 to 0x7fff; places are whole pixels.
    assert words[:2] == ["0003", "0000"]
    pixel = 0x7FFF / place["width"]
    assert 0x4000 - 2 * pixel <= int(words[2], 16) <= 0x4000 + 102 * pixel

    assert page.browser.evaluate("document.activeElement.tagName") == "CANVAS"
    page.browser.release_the_keyboard()
    assert page.browser.evaluate("document.activeElement.id") == "type"


def test_an_adapter_that_is_restarted(
    chromium: Tree, vdxgk_run: RunDirectory, tmp_path: Path
) -> None:
    novnc = trees.ensure(trees.NOVNC, Cache(), Reporter())
    device = DeviceProcess(vdxgk_run.path, ["--vnc", str(vdxgk_run.path / "viewers")])
    with (
        WebServer(device.control, novnc) as web,
        Browser(chromium, tmp_path / "browser.log", 390, 844) as browser,
    ):
        browser.open(web.url)
        assert "token" not in browser.evaluate("location.href")
        for _ in range(2):
            browser.wait("document.getElementById('state').innerText === 'adapter gone'")
            assert "The page waits for it" in browser.evaluate(
                "document.getElementById('veil').innerText"
            )
            with device:
                browser.wait("document.getElementById('state').innerText === 'waiting for QEMU'")
                browser.wait(f"document.getElementById('veil').hidden && {CANVAS}?.width === 1280")
        # A telephone's width is enough for it.
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        web.__exit__(None, None, None)
        browser.wait("document.getElementById('state').innerText === 'server gone'")
