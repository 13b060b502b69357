"""A set of ranges against a set of pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdxgk.memory.pages import Range
from vdxgk.memory.ranges import RangeSet

MOST = 24
RANGES = st.builds(Range, st.integers(0, MOST), st.integers(1, 8))


def runs_of(pages: set[int]) -> list[Range]:
    starts = sorted(page for page in pages if page - 1 not in pages)
    ends = sorted(page + 1 for page in pages if page + 1 not in pages)
    return [Range(start, end - start) for start, end in zip(starts, ends, strict=True)]


@given(st.lists(st.tuples(st.booleans(), RANGES), max_size=60), RANGES)
def test_any_sequence_of_changes(changes: list[tuple[bool, Range]], asked: Range) -> None:
    ranges, pages = RangeSet(), set[int]()
    for adds, item in changes:
        touched = set(range(item.base, item.end))
        change = ranges.add if adds else ranges.remove
        if not (touched.isdisjoint(pages) if adds else touched <= pages):
            with pytest.raises(ValueError, match=r"the set$"):
                change(item)
        else:
            change(item)
            pages = pages | touched if adds else pages - touched
        assert list(ranges) == runs_of(pages)
        assert (ranges.total, len(ranges)) == (len(pages), len(runs_of(pages)))
    wanted = set(range(asked.base, asked.end))
    assert ranges.overlaps(asked) == (not wanted.isdisjoint(pages))
    assert ranges.contains(asked) == (wanted <= pages)
    assert list(ranges.within(asked.base, asked.end)) == runs_of(pages & wanted)
