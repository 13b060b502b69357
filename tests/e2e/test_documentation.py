"""The example of docs/testing.md, as a stranger would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[2] / "docs/testing.md"


def test_the_example_runs_outside_of_the_checkout(
    vdxgk_artifacts: Artifacts, tmp_path: Path
) -> None:
    assert vdxgk_artifacts.initramfs.exists()
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "1 passed" in run.stdout  # not skipped
