"""`vdxgk audit FILE`: what it prints, and what it says of files that are no good."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.unit.lab.audit.logs import Row, end, event, mapped, mark, unmapped, write
from vdxgk.audit.records import Ending, Kind
from vdxgk_lab.cli import main

PAGE = 4096
SECOND = 1_000_000
RUN: tuple[Row | bytes, ...] = (
    event(1, Kind.CONNECTED),
    mapped(2, 0, 64 << 20, offset=0),
    event(3, Kind.DESCRIBED),
    unmapped(2 * SECOND, 0, 64 << 20),
    mapped(3 * SECOND, 0xFFFF_F000, PAGE, offset=0x5000),
    unmapped(3 * SECOND + 250, 0xFFFF_F000, PAGE),
    mapped(4 * SECOND, 0x1_0000_0000, 2 * PAGE, offset=0x8000, access=1),
    mark(5 * SECOND, "probe"),
    event(6 * SECOND, Kind.DISCONNECTED),
)


def test_the_report(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    result = CliRunner().invoke(main, ["audit", str(path)])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for line in (
        "7.0 s, 9 events, 1 client; complete",
        "guest RAM 64 MiB",
        "not translated for 2 s: up to 64 MiB reachable at their own addresses",
        "identity 0.000 2.000 64 MiB 1",
        "translated 2 mappings of 3 different pages; at most 1 at once, 8 KiB",
        "lifetimes shortest 250 us, median 250 us, 90 % 2 s, 99 % 2 s, longest 2 s",
        "access read 1, both 1",
        "never unmapped 1 mappings",
        "0x1_0000_0000 0x0000_8000 8 KiB read 4.000 until the client went",
        "probe 5.000 1 8 KiB",
    ):
        assert line in lines, result.output


def test_the_mappings_at_a_moment(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    words = ["audit", str(path), "--at", "probe", "--at", "1.5"]
    lines = [" ".join(line.split()) for line in CliRunner().invoke(main, words).output.splitlines()]
    at_mark = lines.index("at probe: logical guest-physical size access since s")
    assert lines[at_mark + 1] == (
        "0x1_0000_0000 0x0000_8000 8 KiB read 4.000 until the client went"
    )
    at_second = lines.index("at 1.5: logical guest-physical size access since s")
    assert lines[at_second + 1] == "0x0000_0000 0x0000_0000 64 MiB both 0.000"
    result = CliRunner().invoke(main, ["audit", str(path), "--at", "never"])
    assert result.exit_code == 2
    assert "marks: probe" in result.stderr


def test_the_report_for_programs(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    facts = json.loads(CliRunner().invoke(main, ["audit", "--json", str(path)]).stdout)
    assert facts["never_unmapped"][0]["logical"] == 1 << 32
    assert facts["translations"]["accesses"] == {"read": 1, "both": 1}


@pytest.mark.parametrize("ending", [[end(7 * SECOND, Ending.LIMIT)], []])
def test_an_incomplete_log_is_reported_and_is_no_success(tmp_path: Path, ending: list[Row]) -> None:
    path = write(tmp_path / "log", [*RUN, *ending])
    result = CliRunner().invoke(main, ["audit", str(path)])
    assert result.exit_code == 1
    assert "INCOMPLETE" in result.output.splitlines()[0]
    assert "never unmapped" in result.output


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("hello")
    result = CliRunner().invoke(main, ["audit", str(path)])
    assert result.exit_code == 1
    assert result.stderr == (
        f"vdxgk: {path} is no log of an audit.\n`vdxgk serve --audit FILE` makes one.\n"
    )
    result = CliRunner().invoke(main, ["audit"])
    assert result.exit_code == 2
    assert "FILE" in result.stderr


def test_pictures_and_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    png, page = tmp_path / "audit.png", tmp_path / "audit.html"
    words = ["audit", str(path), "--png", str(png), "--html", str(page), "--to", "6.5"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    with Image.open(png) as picture:
        # Red lines at the mark, the colours of both phases, and white where nothing is mapped.
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0xF3, 0xB2, 0x7A), (0x1F, 0x5F, 0xA8), (0x3F, 0xAE, 0x6A)} <= colours
    text = page.read_text()
    assert "never unmapped" in text
    assert "data:image/png;base64," in text
    for loads in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert loads not in text


def test_without_matplotlib_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    result = CliRunner().invoke(main, ["audit", str(path), "--png", str(tmp_path / "x.png")])
    assert result.exit_code == 1
    assert "pip install 'vdxgk[plots]'" in result.stderr
    assert CliRunner().invoke(main, ["audit", str(path)]).exit_code == 0


@pytest.mark.parametrize("span", [("3", "3"), ("4", "2")])
def test_an_empty_span_is_a_mistake(tmp_path: Path, span: tuple[str, str]) -> None:
    path = write(tmp_path / "log", [*RUN, end(7 * SECOND)])
    result = CliRunner().invoke(main, ["audit", str(path), "--from", span[0], "--to", span[1]])
    assert result.exit_code == 2
