"""Figures and curves, without measuring anything that matters."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdxgk_lab.bench import curves, frame
from vdxgk_lab.bench.figures import Figure


def test_the_median_ratio_keeps_the_budget_or_not() -> None:
    figure = Figure("x", "y", floor=[1.0, 2.0, 4.0], ours=[2.0, 3.0, 4.0], budget=1.5)
    assert figure.ratios == [2.0, 1.5, 1.0]
    assert figure.ratio == 1.5
    assert figure.within_budget
    assert not Figure("x", "y", [1.0], [1.6], 1.5).within_budget
    assert Figure("x", "y", [1.0], [9.0]).within_budget is None


@pytest.mark.parametrize(
    "curve",
    [
        curves.mappings(64, 32),
        curves.pages(1, [16, 64]),
        curves.objects(64, 32),
        curves.lists(1, [1, 4]),
        curves.frames(1, [(320, 200)]),
    ],
    ids=lambda curve: curve.name,
)
def test_each_curve_has_points_and_a_plot_that_is_the_same_twice(
    curve: curves.Curve, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    from vdxgk_lab.bench import plots

    for points in curve.series.values():
        assert points
        assert all(cost > 0 for _, cost in points)
    path = plots.draw(curve, tmp_path)
    first = path.read_bytes()
    assert b"<svg" in first
    assert plots.draw(curve, tmp_path).read_bytes() == first


def test_a_frame_costs_something() -> None:
    assert frame.to_rgb(320, 200, 1).ratio > 0
