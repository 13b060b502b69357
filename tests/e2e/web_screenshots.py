"""Makes the pictures of docs/web.md: `python -m tests.e2e.web_screenshots`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.e2e.browser import Browser
from tests.e2e.screens import settle
from tests.e2e.test_scanout import picture
from tests.e2e.test_viewers import booted, wait_for
from tests.e2e.web_page import CANVAS, Page
from vdxgk_lab import artifacts, trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.progress import Reporter

TARGET = Path(__file__).parents[2] / "docs/images"
PHONE = (390, 844)
SHOWN = (640, 480)


def main() -> None:
    """Boot a guest, work in it, and take pictures of the page."""
    artifacts.prepare()
    chromium = trees.ensure(trees.CHROMIUM, Cache(), Reporter())
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shots-") as place:
        directory = Path(place)
        with booted(directory, "--memory=5G", "--web") as lines:
            url = wait_for(lines, b"Open http").split()[1].decode()
            with Browser(chromium, directory / "browser.log") as browser:
                browser.prefer("dark")
                browser.open(url)
                [control] = directory.glob("vdxgk-*/device.control")
                page = Page(browser, control, lines)
                wait_for(lines, b"vdxgk guest:")
                browser.wait(f"{CANVAS}?.width === 1024")
                work(page)
                take(browser)
                browser.resize(1280, 800)
                scan_out(page)
                keep(browser, "web-scanout")


def work(page: Page) -> None:
    """Objects of several types, lists, DMA, and accesses that are refused."""
    browser = page.browser
    browser.evaluate("document.getElementById('type').click()")
    page.type(
        "clear;for s in 4K 256K 2M;do dxgkctl create --type contiguous --size $s >/dev/null;done"
    )
    page.type("dxgkctl create --type section --size 64K >/dev/null")
    page.type("for s in 64K 1M 4M;do dxgkctl create --type mdl --size $s;done")
    browser.wait("document.querySelectorAll('#objects tbody').length === 7")
    for held in page.status()["objects"]:
        if held["type"] != "SECTION":
            page.type(f"dxgkctl adl {held['adapter_object']:#x} --size {held['size']} >/dev/null")
    browser.wait("document.querySelectorAll('#objects [data-list]').length === 6")
    browser.wait("!document.querySelector('#objects .state')")
    lists = [adl for held in page.status()["objects"] for adl in held["lists"]]
    for adl in lists[-2:]:
        page.type(f"dxgkctl dma crc32 --source {adl['logical']:#x} --size {adl['size']}")
    page.type(f"dxgkctl dma fill --destination {lists[2]['logical']:#x} --size 2M --value 1")
    page.type(f"dxgkctl dma crc32 --source {lists[0]['logical'] + 4096:#x} --size 64")
    page.type(f"dxgkctl dma fill --destination {lists[-1]['logical'] - 64:#x} --size 4K")
    page.type("dxgkctl dma fill --destination 0x1_2000_0000 --size 64".replace("_", ""))
    browser.wait("document.querySelectorAll('#faults li').length === 3")
    # New faults are marked for a moment.
    browser.wait("!document.getAnimations().length")


def take(browser: Browser) -> None:
    """The pictures: dark, light with an object's details, and on a telephone."""
    keep(browser, "web-dark")
    browser.prefer("light")
    browser.evaluate("document.querySelectorAll('.toggle')[1].click()")
    keep(browser, "web-light")
    browser.evaluate("document.querySelectorAll('.toggle')[1].click()")
    browser.prefer("dark")
    browser.resize(*PHONE, mobile=True)
    browser.wait(f"innerWidth === {PHONE[0]}")
    keep(browser, "web-phone")


def scan_out(page: Page) -> None:
    """The screen shows an object of 4 MiB instead: scattered, remapped pages."""
    page.browser.evaluate("document.getElementById('type').click()")
    listed = [held for held in page.status()["objects"] if held["lists"]]
    # The driver numbers its lists.
    [(number, held)] = [
        (number, held) for number, held in enumerate(listed, 1) if held["size"] == 4 << 20
    ]
    shape = f"--width {SHOWN[0]} --height {SHOWN[1]} --pitch {4 * SHOWN[0]}"
    page.type(f"dxgkctl pattern {held['handle']} {shape} --seed 1")
    page.type(f"dxgkctl present {number} {shape}")
    page.browser.wait(f"{CANVAS}.width === {SHOWN[0]}")
    expected = picture(*SHOWN, 1)
    settle(lambda: expected, page.picture)


def keep(browser: Browser, name: str) -> None:
    """Few colours are enough for it, and a small file."""
    with Image.open(io.BytesIO(browser.screenshot())) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(TARGET / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
