"""Curves as SVG files; needs the extra `plots`."""

from __future__ import annotations

from pathlib import Path

from vdxgk_lab import plotting
from vdxgk_lab.bench.curves import Curve


def draw(curve: Curve, directory: Path) -> Path:
    """One file, named as the curve is.  Raises Misconfigured without matplotlib."""
    figure = plotting.new_figure(7, 3.5)
    import matplotlib  # noqa: PLC0415 - an extra

    # The same curves make the same file, so that a repository shows real changes only.
    matplotlib.rcParams["svg.hashsalt"] = curve.name
    axes = figure.add_subplot()
    for name, points in curve.series.items():
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 20 else None)
    if curve.logarithmic:
        axes.set_xscale("log", base=2)
    axes.set(title=curve.title, xlabel=curve.work, ylabel=curve.cost)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    path = directory / f"{curve.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path
