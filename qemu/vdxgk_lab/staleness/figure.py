"""The distributions as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vdxgk_lab import plotting
from vdxgk_lab.staleness.measure import Distribution

_COLOURS = ("#1f5fa8", "#d95f02", "#3fae6a", "#b00020", "#7a5195", "#8c6d31", "#222222", "#e377c2")


def draw(found: Sequence[Distribution], path: Path) -> None:
    """Write a PNG file: the share of pages that were still within reach, over time.

    Raises Misconfigured without matplotlib.
    """
    figure = plotting.new_figure(9, 4.5)
    axes = figure.subplots()
    stale = [each for each in found if each.stale_samples]
    longest = max((sample.stale for each in stale for sample in each.samples), default=0.01)
    for each, colour in zip(stale, _COLOURS, strict=False):
        values = sorted(sample.stale * 1e3 for sample in each.samples)
        share = [100 * (1 - index / len(values)) for index in range(len(values))]
        axes.step(
            [0, *values, longest * 1.05e3],
            [100, *share, 0],
            where="pre",
            color=colour,
            label=f"{each.iommu}, {each.asked}, {each.domain}, by {each.path}",
        )
    never = [each for each in found if not each.stale_samples]
    axes.plot([0, longest * 1.05e3], [0, 0], color="black", lw=2, clip_on=False)
    if never:
        pages = sum(len(each.samples) for each in never)
        label = f"the other {len(never)} ways: 0 of {pages:,} pages"
        axes.plot([], [], color="black", lw=2, label=label)
    axes.set_xlim(0, longest * 1.05e3)
    axes.set_ylim(0, 103)
    axes.set_xlabel("milliseconds after the guest's unmap has returned")
    axes.set_ylabel("pages still within reach, %")
    axes.grid(lw=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)
