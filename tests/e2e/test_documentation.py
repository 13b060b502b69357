"""The examples of the documentation, as a stranger would run them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "beside"),
    [("docs/testing.md", ()), ("docs/plugin.md", ("device.py", "driver"))],
    ids=["testing.md", "plugin.md"],
)
def test_the_example_runs_outside_of_the_checkout(
    vdxgk_artifacts: Artifacts, tmp_path: Path, page: str, beside: tuple[str, ...]
) -> None:
    assert vdxgk_artifacts.initramfs.exists()
    for name in beside:
        source = ROOT / "examples/dma-api-driver" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
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
