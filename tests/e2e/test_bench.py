"""The benchmark runs, and says what it must; its figures are no business of a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_a_quick_run(vdxgk_artifacts: Artifacts, tmp_path: Path) -> None:
    assert vdxgk_artifacts
    run = subprocess.run(
        [sys.executable, "-m", "vdxgk_lab", "bench", "--quick", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    record = json.loads(run.stdout)
    assert record["serve"]["resident_bytes"] > 0
    names = [figure["name"] for figure in record["figures"]]
    assert "region read, 4 bytes" in names
    assert "engine copy, 64 MiB, 16,384 pages" in names
    for figure in record["figures"]:
        assert figure["ratio"] > 0
        assert len(figure["floor_seconds"]) == len(figure["ours_seconds"])
