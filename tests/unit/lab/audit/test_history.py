"""The analysis against a plain model: one entry for each page, looked at after each event."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.lab.audit.logs import START, Row, end, event, mapped, unmapped, write
from vdxgk.audit.records import Kind
from vdxgk_lab.audit import reach
from vdxgk_lab.audit.history import Class, Fate, History, replay
from vdxgk_lab.audit.log import read
from vdxgk_lab.audit.report import Analysis, analyse

PAGE = 4096
PAGES = 24
RAM = (  # base, size, offset: a hole between the two, as below 4 GiB
    (0, 12 * PAGE, 0),
    (16 * PAGE, 8 * PAGE, 12 * PAGE),
)
LAYOUT = (
    event(0, Kind.CONNECTED),
    *(mapped(1, base, size, offset=offset) for base, size, offset in RAM),
    event(2, Kind.DESCRIBED),
    *(unmapped(3, base, size) for base, size, _ in RAM),
)

Model = dict[int, tuple[int, int, int]]
"""Logical page number: access, file, page number in the file."""


@st.composite
def events(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    time = 10
    for _ in range(draw(st.integers(0, 25))):
        time += draw(st.integers(0, 3))
        first = draw(st.integers(0, PAGES - 1))
        size = draw(st.integers(1, 4))
        if draw(st.integers(0, 9)) == 0:
            rows.append(event(time, Kind.DISCONNECTED))
            rows.append(event(time, Kind.CONNECTED))
            rows += [mapped(time, b, s, offset=o) for b, s, o in RAM]
            rows.append(event(time, Kind.DESCRIBED))
            rows += [unmapped(time, b, s) for b, s, _ in RAM]
        elif draw(st.booleans()):
            file = draw(st.sampled_from([0, 1, 1, 1, 2]))
            # Within one section, as QEMU cuts them.
            _, whole, offset = draw(st.sampled_from(RAM))
            size = min(size, whole // PAGE)
            into = draw(st.integers(0, whole // PAGE - size)) * PAGE
            access = draw(st.integers(1, 3))
            place = {"file": file, "offset": offset + into if file else 0, "access": access}
            rows.append(mapped(time, first * PAGE, size * PAGE, **place))
        else:
            rows.append(unmapped(time, first * PAGE, size * PAGE))
    return rows


def model_after(rows: list[Row], time: int) -> Model:
    """What is mapped once everything up to `time` has happened."""
    pages: Model = {}
    for when, kind, access, file, first, last, offset in rows:
        if when > time:
            break
        if kind == Kind.DISCONNECTED:
            pages = {}
        for page in range(first // PAGE, (last + 1) // PAGE):
            if kind == Kind.MAPPED:
                at = offset // PAGE + page - first // PAGE if file else 0
                pages[page] = (access, file, at)
            elif kind == Kind.UNMAPPED:
                pages.pop(page, None)
    return pages


def gpa(file: int, page: int) -> int | None:
    if file != 1:
        return None
    for base, size, offset in RAM:
        if offset <= page * PAGE < offset + size:
            return base + page * PAGE - offset
    raise AssertionError(page)


def analysed(rows: list[Row]) -> tuple[History, Analysis]:
    with tempfile.TemporaryDirectory() as directory:
        log = read(write(Path(directory) / "log", rows))
    history = replay(log)
    return history, analyse(log, history)


@settings(max_examples=150, deadline=None)
@given(events())
def test_pieces_and_curves_are_those_of_the_model(steps: list[Row]) -> None:
    rows = [*LAYOUT, *steps, end(1000)]
    history, analysis = analysed(rows)
    for time in sorted({row[0] for row in rows if row[0] >= 10}):
        pages = model_after(rows, time)
        found: Model = {}
        for piece in history.alive(START + time * 1000):
            for page in range(int(piece["first"]) // PAGE, (int(piece["last"]) + 1) // PAGE):
                into = page * PAGE - int(piece["first"])
                at = (int(piece["offset"]) + into) // PAGE if piece["file"] else 0
                assert page not in found
                found[page] = (int(piece["access"]), int(piece["file"]), at)
                expected = gpa(int(piece["file"]), at)
                if expected is not None:
                    assert int(piece["physical"]) + into == expected
                    same = int(piece["physical"]) == int(piece["first"])
                    assert piece["kind"] == (Class.IDENTITY if same else Class.TRANSLATED)
        if time < 1000:
            assert found == pages
            reached = {(file, at) for _, file, at in pages.values() if file}
            assert analysis.reachable.at(START + time * 1000) == len(reached) * PAGE
    writable = history.pieces[history.pieces["access"] & 2 != 0]
    times = sorted({row[0] for row in rows if 10 <= row[0] < 1000})
    most = max(
        (
            len({(f, at) for access, f, at in model_after(rows, t).values() if f and access & 2})
            for t in times
        ),
        default=0,
    )
    curve = reach.memory(writable)
    assert max((curve.at(START + t * 1000) for t in times), default=0) == most * PAGE


def test_lifetimes_fates_and_pages() -> None:
    rows = [
        *LAYOUT,
        mapped(10, 0x100000, PAGE, offset=0),
        mapped(20, 0x200000, PAGE, offset=0, access=1),  # the same page again
        mapped(30, 0x300000, 4 * PAGE, offset=2 * PAGE),
        unmapped(40, 0x301000, PAGE),  # out of the middle
        mapped(50, 0x303000, PAGE, offset=8 * PAGE),  # over the last one
        unmapped(60, 0x100000, PAGE),
        event(90, Kind.DISCONNECTED),
        end(100),
    ]
    history, analysis = analysed(rows)
    pieces = [
        (int(p["first"]), int(p["last"]) + 1 - int(p["first"]), Fate(p["fate"]))
        for p in history.pieces
        if p["born"] >= START + 10_000
    ]
    assert sorted(pieces) == [
        (0x100000, PAGE, Fate.UNMAPPED),
        (0x200000, PAGE, Fate.DISCONNECTED),
        (0x300000, PAGE, Fate.DISCONNECTED),
        (0x301000, PAGE, Fate.UNMAPPED),
        (0x302000, PAGE, Fate.DISCONNECTED),
        (0x303000, PAGE, Fate.REPLACED),
        (0x303000, PAGE, Fate.DISCONNECTED),
    ]
    report = analysis.report
    found = report.translations
    assert (found.mappings, found.pages) == (7, 6)
    assert found.accesses == {"read": 1, "both": 6}
    assert found.lifetimes["shortest"] == 10e-6  # the page out of the middle
    assert found.lifetimes["longest"] == 70e-6
    assert [(item.logical, item.physical) for item in report.never_unmapped] == [
        (0x200000, 0),
        (0x300000, 2 * PAGE),
        (0x302000, 4 * PAGE),
        (0x303000, 8 * PAGE),
    ]
    assert {item.fate for item in report.never_unmapped} == {"disconnected"}


def test_phases_of_a_boot() -> None:
    """Identity with a short gap, nothing, translations, and both."""
    milli = 1000
    rows = [
        event(0, Kind.CONNECTED),
        mapped(1, 0, 12 * PAGE, offset=0),
        event(2, Kind.DESCRIBED),
        unmapped(500 * milli, 0, 12 * PAGE),
        mapped(505 * milli, 0, 12 * PAGE, offset=0),
        unmapped(1000 * milli, 0, 12 * PAGE),
        mapped(1500 * milli, 0x100000, PAGE, offset=0),
        mapped(2000 * milli, 0x200000, PAGE, offset=0),
        mapped(2500 * milli, 0x3000, PAGE, offset=3 * PAGE),  # identity
        end(3000 * milli),
    ]
    _, analysis = analysed(rows)
    report = analysis.report
    assert [(p.name, round(p.start, 3), round(p.end, 3)) for p in report.phases] == [
        ("nothing mapped", 0, 0),
        ("identity", 0, 1),
        ("nothing mapped", 1, 1.5),
        ("translated", 1.5, 2.5),
        ("identity and translated", 2.5, 3),
    ]
    assert [p.reachable // PAGE for p in report.phases[1:]] == [12, 0, 1, 2]
    assert report.ram == 12 * PAGE
    assert report.untranslated_reachable == 12 * PAGE
    assert round(report.untranslated_seconds, 2) == 1.5


def test_a_hot_plugged_client_has_no_layout() -> None:
    """Nothing was mapped before it was described: places stay unknown, bytes do not."""
    rows = [
        event(0, Kind.CONNECTED),
        event(1, Kind.DESCRIBED),
        mapped(2, 0x100000, 2 * PAGE, offset=0),
        mapped(2, 0x200000, PAGE, offset=PAGE),
        mapped(2, 0x400000, PAGE, file=2, offset=PAGE),
        end(9),
    ]
    history, analysis = analysed(rows)
    assert set(history.pieces["kind"]) == {Class.UNPLACED}
    assert analysis.report.ram == 0
    assert analysis.reachable.at(START + 5000) == 3 * PAGE
    assert [item.physical for item in analysis.report.never_unmapped] == [None] * 3


def test_the_whole_of_the_address_space() -> None:
    """UNMAP_ALL, and a mapping that ends at 2^64."""
    rows = [
        *LAYOUT,
        mapped(10, (1 << 64) - PAGE, PAGE, offset=0),
        mapped(10, 0x100000, PAGE, offset=PAGE),
        (20, Kind.UNMAPPED, 0, 0, 0, (1 << 64) - 1, 0),
        end(30),
    ]
    history, analysis = analysed(rows)
    assert len(history.alive(START + 15_000)) == 2
    assert len(history.alive(START + 25_000)) == 0
    assert analysis.report.never_unmapped == []
