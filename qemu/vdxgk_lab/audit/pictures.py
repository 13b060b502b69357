"""Pictures of an audit: bytes within reach, logical and guest-physical addresses, over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vdxgk_lab import plotting
from vdxgk_lab.audit import bands, reach
from vdxgk_lab.audit.bands import Band
from vdxgk_lab.audit.history import Class, Pieces
from vdxgk_lab.audit.report import Analysis
from vdxgk_lab.audit.text import size
from vdxgk_lab.proof.evidence import grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1400, 420
"""Pixels of the map of an address space."""
LABEL_HEIGHT = 36
"""Of those pixels, for two lines of text."""
MARKS = 10
"""Marks that are drawn."""

_KINDS = ("not mapped", "identity", "translated", "translated, read only", "place not known")
_COLOURS = ("#ffffff", "#f3b27a", "#1f5fa8", "#3fae6a", "#9a8fc0")


def draw(
    analysis: Analysis,
    path: Path | BinaryIO,
    title: str,
    start: float = 0,
    end: float | None = None,
) -> None:
    """Write a PNG; `start` and `end` in seconds since the log began.

    Raises Misconfigured without matplotlib.
    """
    figure = plotting.new_figure(12, 9)
    axes = figure.subplots(3, 1, height_ratios=(2, 3, 3), sharex=True)
    end = analysis.report.seconds if end is None else end
    curves, logical, physical = axes
    _curves(curves, analysis, start, end)
    pieces = _within(analysis, start, end)
    pieces = pieces[pieces["kind"] != Class.OPAQUE]
    _space(logical, analysis, pieces, pieces["first"], (start, end))
    logical.set_ylabel("logical address")
    placed = pieces[pieces["kind"] != Class.UNPLACED]
    _space(physical, analysis, placed, placed["physical"], (start, end))
    physical.set_ylabel("guest-physical address")
    physical.set_xlabel("seconds")
    physical.set_xlim(start, end)
    marks = _marks(axes, analysis, start, end)
    figure.suptitle("\n".join([title, "   ".join(marks)]).strip(), fontsize=11)
    _legend(figure, pieces)
    figure.savefig(path)


def _within(analysis: Analysis, start: float, end: float) -> Pieces:
    pieces = analysis.history.pieces
    low = analysis.log.start + int(start * 1e9)
    high = analysis.log.start + int(end * 1e9)
    return pieces[(pieces["died"] > low) & (pieces["born"] < high)]


def _curves(axes: Axes, analysis: Analysis, start: float, end: float) -> None:
    for curve, colour, label in (
        (analysis.identity, _COLOURS[1], "at their own addresses"),
        (analysis.translated, _COLOURS[2], "translated"),
    ):
        times, values = _steps(analysis, curve, end)
        axes.fill_between(times, values, step="post", color=colour, alpha=0.8, label=label, lw=0)
        axes.step(times, values, where="post", color=colour, lw=1)
    highest = max(analysis.reachable.highest, 4096)
    axes.set_yscale("symlog", linthresh=4096, base=2)
    ticks = [0, *(1 << shift for shift in range(12, highest.bit_length() + 1, 3))]
    axes.set_yticks(ticks, [size(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, highest * 2)
    axes.set_ylabel("bytes within reach")
    axes.grid(axis="y", lw=0.3)
    counts = axes.twinx()
    times, values = _steps(analysis, analysis.mappings, end)
    counts.step(times, values, where="post", color="#555555", lw=0.8)
    counts.set_ylim(0, max(analysis.mappings.highest, 1) * 1.15)
    counts.set_ylabel("mappings (line)", color="#555555")


def _steps(analysis: Analysis, curve: reach.Curve, end: float) -> tuple[Any, Any]:
    times = (curve.times - np.uint64(analysis.log.start)) / 1e9
    last = curve.values[-1] if len(curve.values) else 0
    return [0.0, *times, end], [0, *curve.values, last]


def _space(
    axes: Axes,
    analysis: Analysis,
    pieces: Pieces,
    first: npt.NDArray[np.uint64],
    span: tuple[float, float],
) -> None:
    axes.set_yticks([])
    if not len(pieces):
        axes.text(0.5, 0.5, "nothing", transform=axes.transAxes, ha="center")
        return
    last = first + (pieces["last"] - pieces["first"])
    identity = pieces["kind"] == Class.IDENTITY
    layout = bands.arrange(
        bands.union(first[~identity], last[~identity]),
        bands.union(first[identity], last[identity]),
        HEIGHT,
    )
    image = _raster(layout, pieces, first, last, (analysis.log.start, *span))
    from matplotlib.colors import ListedColormap  # noqa: PLC0415 - an extra

    axes.imshow(
        image,
        cmap=ListedColormap(_COLOURS),
        vmin=-0.5,
        vmax=len(_COLOURS) - 0.5,
        extent=(span[0], span[1], 0, HEIGHT),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    _label(axes, layout)


def _raster(
    layout: list[Band],
    pieces: Pieces,
    first: npt.NDArray[np.uint64],
    last: npt.NDArray[np.uint64],
    span: tuple[int, float, float],
) -> npt.NDArray[np.uint8]:
    """Every piece covers a pixel at least; translations lie above what is not translated."""
    origin, start, end = span
    low = np.floor(bands.rows(layout, first)).astype(int)
    high = np.maximum(np.ceil(bands.rows(layout, last)).astype(int), low + 1)
    scale = WIDTH / (end - start)

    def column(times: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        seconds = times.astype(np.float64) / 1e9 - origin / 1e9
        return np.asarray(np.clip((seconds - start) * scale, 0, WIDTH))

    left = np.minimum(np.floor(column(pieces["born"])).astype(int), WIDTH - 1)
    right = np.maximum(np.ceil(column(pieces["died"])).astype(int), left + 1)
    colours = np.choose(pieces["kind"], (1, 2, 4, 0)).astype(np.uint8)
    colours[(colours == 2) & (pieces["access"] & 2 == 0)] = 3
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index in np.argsort(colours, kind="stable").tolist():
        image[low[index] : high[index], left[index] : right[index]] = colours[index]
    return image


def _label(axes: Axes, layout: list[Band]) -> None:
    axes.set_ylim(0, HEIGHT)
    labelled: list[Band] = []
    for band in sorted(layout, key=lambda each: each.low - each.high):  # the highest first
        if all(abs(_middle(band) - _middle(other)) > LABEL_HEIGHT for other in labelled):
            labelled.append(band)
    axes.set_yticks(
        [_middle(band) for band in labelled],
        [f"{grouped(band.start)}\n+ {size(band.end - band.start)}" for band in labelled],
        fontsize=7,
    )
    for band in layout[1:]:
        axes.axhline(band.low - 0.5, color="#888888", lw=0.6, ls=(0, (1, 2)))


def _middle(band: Band) -> float:
    return (band.low + band.high) / 2


def _marks(axes: Any, analysis: Analysis, start: float, end: float) -> list[str]:  # noqa: ANN401 - array
    """Draw numbered lines; answers what the numbers mean."""
    marks = [(analysis.log.seconds(time), text) for time, text in analysis.log.marks()]
    inside = [(time, text) for time, text in marks if start <= time <= end][:MARKS]
    for number, (time, _) in enumerate(inside, 1):
        for each in axes:
            each.axvline(time, color="#b00020", lw=0.8, ls="--")
        axes[0].annotate(
            str(number),
            (time, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#b00020",
        )
    return [f"{number} {text}" for number, (_, text) in enumerate(inside, 1)]


def _legend(figure: Figure, pieces: Pieces) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - an extra

    present = {1} if (pieces["kind"] == Class.IDENTITY).any() else set()
    translated = pieces[pieces["kind"] == Class.TRANSLATED]
    present |= {2 if access & 2 else 3 for access in translated["access"].tolist()}
    present |= {4} if (pieces["kind"] == Class.UNPLACED).any() else set()
    figure.legend(
        handles=[
            Patch(facecolor=_COLOURS[index], edgecolor="#888888", label=_KINDS[index])
            for index in sorted(present | {0})
        ],
        loc="outside lower center",
        ncols=5,
        frameon=False,
    )
