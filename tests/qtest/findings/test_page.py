"""docs/qemu-findings.md has a section for each finding, and no other."""

from __future__ import annotations

import importlib
from pathlib import Path

HERE = Path(__file__)


def test_every_finding_has_its_section_and_every_section_its_finding() -> None:
    page = (HERE.parents[3] / "docs/qemu-findings.md").read_text()
    prefix = "Reproducer: `"
    sections = [
        line.removeprefix(prefix).rstrip("`") for line in page.splitlines() if prefix in line
    ]
    assert sections
    findings = [
        name.removeprefix("test_")
        for path in HERE.parent.glob("test_*.py")
        for name, item in vars(importlib.import_module(f"{__package__}.{path.stem}")).items()
        if any(mark.name == "xfail" for mark in getattr(item, "pytestmark", []))
    ]
    assert sorted(sections) == sorted(findings)
