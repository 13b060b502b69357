"""The example project for drivers that are not ours, with the packages as users install them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/dma-api-driver"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Python of a fresh environment into which both wheels were installed, built just now."""
    wheels, home = tmp_path / "wheels", tmp_path / "venv"
    for distribution in (ROOT, ROOT / "device/pyvfio-user"):
        _run("-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=distribution)
    _run("-m", "venv", "--without-pip", str(home))
    python = home / "bin/python"
    pip = ("-m", "pip", "--disable-pip-version-check", "--python", str(python))
    _run(*pip, "install", "-q", "--no-deps", "--no-index", *map(str, sorted(wheels.iterdir())))
    # What others wrote comes from the checkout's environment; its own
    # packages are there by lines of .pth files, which have no effect here.
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_each_bug_is_named(python: Path, vdxgk_artifacts: Artifacts, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(EXAMPLE, project)
    where = "import vdxgk_lab, pyvfio_user; print(vdxgk_lab.__file__, pyvfio_user.__file__)"
    files = _run("-c", where, python=python, cwd=project).split()
    assert all(Path(file).is_relative_to(python.parents[1]) for file in files), files
    output = _run("-m", "pytest", "-v", "-p", "no:cacheprovider", python=python, cwd=project)
    assert "2 passed" in output, output


def _run(*arguments: str, python: Path | str = sys.executable, cwd: Path | None = None) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [str(python), *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    return run.stdout
