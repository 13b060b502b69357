"""The main job, on each IOMMU and with each kernel, as `vdxgk run` does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import Iommu
from vdxgk_lab.proof.cases import OBJECTS, ObjectCase
from vdxgk_lab.proof.run import Listener, RunOptions, prove
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.trees import Kernel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# One of each kind; 64 MiB of large pages belong to the run below.
SELECTION: tuple[ObjectCase, ...] = tuple(case for case in OBJECTS if case.size <= 1_100_000)


def silent() -> Listener:
    def nothing(value: object) -> None:
        pass

    return Listener(nothing, nothing, nothing, nothing)


# Intel with 6.12 is the run below.
@pytest.mark.parametrize(
    ("iommu", "kernel"),
    [
        *(("intel", "6.1"), ("amd", "6.1")),
        *(("amd", "6.12"), ("virtio", "6.12")),
        *(("intel", "7.3"), ("virtio", "7.3")),
    ],
)
def test_remapping_is_proven(
    vdxgk_prepare: Callable[[Kernel], Artifacts],
    vdxgk_run: RunDirectory,
    iommu: Iommu,
    kernel: Kernel,
) -> None:
    artifacts = vdxgk_prepare(kernel)
    assert artifacts.kernel_release.startswith(f"{kernel}.")
    evidence = prove(RunOptions(iommu=iommu), artifacts, vdxgk_run.path, silent(), SELECTION)
    failures = {item.name: item.checklist.failures for item in evidence.items() if not item.ok}
    assert not failures
    assert evidence.ok
    assert len(evidence.objects) == len(SELECTION)


def test_the_command_proves_everything(vdxgk_artifacts: Artifacts, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vdxgk_lab", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    evidence = json.loads(run.stdout)
    assert evidence["ok"]
    assert [item["name"] for item in evidence["before"]] == ["physical mode", "logical mode"]
    large = [item for item in evidence["objects"] if item["size"] == 64 << 20]
    assert len(large) == 2
    assert all(0 < item["mappings"] <= 40 for item in large)
    above = [item for item in evidence["objects"] if item["runs"][0][0] >= 1 << 32]
    assert len(above) > len(evidence["objects"]) // 2, "most memory lies above the GPU's reach"
    assert not list(tmp_path.iterdir()), "a run that passes leaves nothing"
