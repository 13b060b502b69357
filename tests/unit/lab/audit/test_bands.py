"""The axis of an address space: in order, without overlap, and nothing left out."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vdxgk_lab.audit import bands

PAGE = 4096


@st.composite
def intervals(draw: st.DrawFn) -> list[tuple[int, int]]:
    """First and last addresses, anywhere in 64 bits."""
    found = []
    for _ in range(draw(st.integers(0, 30))):
        first = draw(st.integers(0, (1 << 52) - 1)) * PAGE >> draw(st.integers(0, 40))
        size = draw(st.integers(1, 1 << draw(st.integers(1, 30))))
        found.append((first, min(first + size * PAGE, 1 << 64) - 1))
    return found


@given(intervals(), intervals())
def test_every_address_has_its_place(
    fine: list[tuple[int, int]], rest: list[tuple[int, int]]
) -> None:
    layout = bands.arrange(_union(fine), _union(rest), 400)
    assert len(layout) <= 2 * (bands.DETAILED + bands.COARSE)
    for before, after in itertools.pairwise(layout):
        assert before.end <= after.start
        assert before.high < after.low
    points = [address for part in fine + rest for address in part]
    for address in points:
        assert any(band.start <= address < band.end for band in layout)
    if points:
        found = bands.rows(layout, np.array(sorted(points), np.uint64))
        assert (np.diff(found) >= 0).all()
        assert found[0] >= 0
        assert found[-1] <= layout[-1].high + 1e-6


def _union(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    starts = np.array([first for first, _ in parts], np.uint64)
    return bands.union(starts, np.array([last for _, last in parts], np.uint64))


def test_pages_and_gigabytes_are_both_seen() -> None:
    layout = bands.arrange([(0xFFFF_0000, 0xFFFF_1000)], [(0, 1 << 30)], 400)
    sizes = [band.high - band.low for band in layout]
    assert min(sizes) > 20
