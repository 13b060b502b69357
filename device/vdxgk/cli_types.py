"""What the commands' options may be, beyond what click knows."""

from __future__ import annotations

import re

import click

from vdxgk.display.edid import Mode


class Size(click.ParamType[int]):
    """A number of bytes, with K, M, G or T (powers of 1024) behind it or not.

    ``lowest`` and ``highest`` are in bytes.
    """

    name = "size"
    _UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}  # noqa: RUF012

    def __init__(self, lowest: int = 0, highest: int = 1 << 64) -> None:
        self._lowest = lowest
        self._highest = highest

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse; fails with a sentence."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("IB")
        digits = text.rstrip("KMGT")
        unit = text[len(digits) :]
        if not digits.isdecimal() or unit not in self._UNITS:
            self.fail(f"{value!r} is not a size such as 4096, 64K, 16M or 2G", param, ctx)
        size = int(digits) << self._UNITS[unit]
        if not self._lowest <= size <= self._highest:
            low, high = size_text(self._lowest), size_text(self._highest)
            self.fail(f"{value!r} is not from {low} to {high}", param, ctx)
        return size


def size_text(size: int) -> str:
    """As Size understands it."""
    for unit in "TGMK":
        shift = Size._UNITS[unit]
        if size and not size % (1 << shift):
            return f"{size >> shift}{unit}"
    return str(size)


class Vram(Size):
    """A framebuffer size."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse; fails with a sentence."""
        size = super().convert(value, param, ctx)
        if size & (size - 1) or not 4 << 20 <= size <= 256 << 20:
            self.fail("must be a power of two from 4M to 256M", param, ctx)
        return size


class ModeType(click.ParamType[Mode]):
    """A size in pixels, as 1280x800."""

    name = "mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mode:
        """Parse; fails with a sentence."""
        if isinstance(value, Mode):
            return value
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size such as 1280x800", param, ctx)
        try:
            return Mode(int(match[1]), int(match[2]))
        except ValueError as error:
            self.fail(str(error), param, ctx)
