"""The web page, as a person sees and uses it in a browser."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.e2e.browser import Browser
from vdxgk.control import ask
from vdxgk.display.pixels import Picture

CANVAS = "document.querySelector('#screen canvas')"
SUM = f"""(() => {{
  const {{ width, height }} = {CANVAS};
  const {{ data }} = {CANVAS}.getContext("2d").getImageData(0, 0, width, height);
  return new Uint32Array(data.buffer).reduce((sum, word, at) => (sum + word * (at % 997)) | 0, 0);
}})()"""
"""A checksum of the picture: it changes when a character appears."""


class Page:
    """The page of the adapter at `control`; `console` is what its guest prints."""

    def __init__(self, browser: Browser, control: Path, console: Iterator[bytes]) -> None:
        self.browser = browser
        self.console = console
        self.control = str(control)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = ask(self.control, "query-status")
        return answer

    def adapters_picture(self) -> Picture:
        return pixels(base64.b64decode(ask(self.control, "screenshot", timeout=60)["png"]))

    def picture(self) -> Picture:
        """The canvas: what the browser has drawn."""
        url = self.browser.evaluate(f"{CANVAS}.toDataURL('image/png')")
        return pixels(base64.b64decode(url.partition(",")[2]))

    def type(self, text: str) -> None:
        """As a person who waits for each character to appear; then Return."""
        for character in text:
            before = self.browser.evaluate(SUM)
            self.browser.press(character)
            self.browser.wait(f"{SUM} !== {before}")
        self.browser.press("\r")

    def texts(self, selector: str) -> list[str]:
        """The visible text of each element."""
        found: list[str] = self.browser.evaluate(
            f"[...document.querySelectorAll({selector!r})].map((node) => node.innerText)"
        )
        return found


def pixels(png: bytes) -> Picture:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def grouped(address: int) -> str:
    """As the page writes addresses."""
    digits = f"{address:08x}"
    head = len(digits) % 4
    groups = [digits[:head]] if head else []
    return "0x" + "_".join(groups + re.findall("....", digits[head:]))
