"""docs/testing.md lists the DMA cases as they are: no test is missing, none is made up."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs/testing.md"
OTHERS = {"test_display.py"}  # it has no DMA
NAME = re.compile(r"`((?:\w+/)*test_\w+::test_\w+)`")
GROUPS = [
    *("Map and unmap", "Transfer", "Protection", "Staleness", "Modes", "Life cycle"),
    "Interrupts",
]
SAME = "same"


def rows() -> list[list[str]]:
    """The cells of the table's rows: case, tests, evidence, opposite."""
    section = PAGE.read_text().partition("## The DMA cases\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def sources(file: Path) -> dict[str, str]:
    """The functions of a file."""
    text = file.read_text()
    return {
        node.name: ast.get_source_segment(text, node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }


def source(name: str) -> str | None:
    """The source of a test that the page names; tests of the lane have no folder."""
    place, _, function = name.partition("::")
    file = TESTS / (f"{place}.py" if "/" in place else f"qtest/{place}.py")
    return sources(file).get(function) if file.is_file() else None


def test_every_name_is_a_test() -> None:
    names = [name for row in rows() for name in NAME.findall(" ".join(row))]
    assert len(names) > 80
    assert [name for name in names if source(name) is None] == []
    # What is no name would not be looked for.
    quoted = [word for row in rows() for word in re.findall(r"`[^`]*`", " ".join(row))]
    assert [word for word in quoted if not NAME.fullmatch(word)] == []


def test_every_case_of_the_lane_has_its_row() -> None:
    named = {name for row in rows() for name in NAME.findall(row[1])}
    missing = [
        f"{file.stem}::{function}"
        for file in sorted((TESTS / "qtest").glob("test_*.py"))
        if file.name not in OTHERS
        for function in sources(file)
        if function.startswith("test_") and f"{file.stem}::{function}" not in named
    ]
    assert missing == []


def test_each_group_is_there_and_each_protection_has_its_opposite() -> None:
    group, groups = "", []
    for case, tests, _, opposite in rows():
        if case.startswith("**"):
            group = case.strip("*")
            groups.append(group)
            continue
        assert tests, case
        if group == "Protection":
            assert opposite, f"{case}: what shows that the access would have succeeded?"
        if opposite:
            names = NAME.findall(tests if opposite == SAME else opposite)
            shown = [name for name in names if "opposite" in (source(name) or "").lower()]
            assert shown, f"{case}: no opposite in {names}"
    assert groups == GROUPS
