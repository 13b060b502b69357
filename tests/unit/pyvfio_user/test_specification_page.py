"""The page that leads from the specification to the tests leads to tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from pyvfio_user.wire import Command

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "pyvfio-user.md"
TESTS = ROOT / "tests" / "protocol"
NOT_OF_THE_SPECIFICATION = {
    "test_faults.py",
    "test_trace.py",
    "test_edu_example.py",
    "test_probe_and_example.py",
}


def rows() -> list[tuple[str, str]]:
    _, _, part = PAGE.read_text().partition("| section | tests |\n| --- | --- |\n")
    table = part.partition("\n\n")[0]
    return re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)


def test_every_command_has_a_row() -> None:
    named = " ".join(section for section, _ in rows())
    assert not [command.name for command in Command if not re.search(rf"\b{command.name}\b", named)]


def test_every_row_leads_to_tests_and_every_test_has_a_row() -> None:
    listed: dict[str, set[str]] = {}
    for _, tests in rows():
        for part in tests.split("; "):
            file, *classes = re.findall(r"[\w.]+", part)
            listed.setdefault(file, set()).update(classes)
    for path in sorted(TESTS.glob("test_*.py")):
        if path.name not in NOT_OF_THE_SPECIFICATION:
            there = {
                node.name
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
            }
            assert listed.pop(path.name) == there, path.name
    assert not listed, "files that do not exist"
