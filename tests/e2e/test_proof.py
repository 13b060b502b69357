"""The main job, on each IOMMU and with each kernel, as `vdxgk run` does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.proof.cases import OBJECTS, ObjectCase
from vdxgk_lab.proof.run import Listener, RunOptions, prove
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.trees import KERNELS, Kernel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# One of each kind; 64 MiB of large pages belong to the run below.
SELECTION: tuple[ObjectCase, ...] = tuple(case for case in OBJECTS if case.size <= 1_100_000)


def silent() -> Listener:
    def nothing(value: object) -> None:
        pass

    return Listener(nothing, nothing, nothing, nothing)


@dataclass(frozen=True)
class Mode:
    """A way of remapping, and what the kernel does with a device in it."""

    options: RunOptions
    default_domain: str = "DMA"


PASSTHROUGH = ("iommu.passthrough=1",)
MODES = {
    "intel_legacy": Mode(RunOptions()),
    "intel_scalable": Mode(RunOptions(iommu_options={"scalable-mode": True})),
    "intel_passthrough": Mode(RunOptions(kernel_args=PASSTHROUGH), "identity"),
    "amd": Mode(RunOptions(iommu="amd")),
    "amd_passthrough": Mode(RunOptions(iommu="amd", kernel_args=PASSTHROUGH), "identity"),
    "virtio": Mode(RunOptions(iommu="virtio")),
}
"""Without an IOMMU there is only physical mode: tests/e2e/test_stub.py."""

Cell = tuple[str, Kernel]
MATRIX: list[Cell] = [
    (mode, kernel)
    for mode in MODES
    for kernel in KERNELS
    if (mode, kernel) != ("virtio", "6.1")  # Debian's 6.1 has no driver for virtio-iommu
]
# What `make test` runs: each way and each kernel. Intel with 6.12 is the run below.
SELECTED: list[Cell] = [
    *(("intel_legacy", "6.1"), ("intel_scalable", "7.3"), ("intel_passthrough", "6.12")),
    *(("amd", "6.1"), ("amd_passthrough", "6.12"), ("virtio", "7.3")),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mode" in metafunc.fixturenames:
        cells = MATRIX if metafunc.config.getoption("--matrix") else SELECTED
        metafunc.parametrize(("mode", "kernel"), cells)


def test_the_selection_covers_every_mode_and_kernel() -> None:
    assert set(SELECTED) <= set(MATRIX)
    assert {mode for mode, _ in SELECTED} == set(MODES)
    assert {kernel for _, kernel in SELECTED} == set(KERNELS)


def test_remapping_is_proven(
    vdxgk_prepare: Callable[[Kernel], Artifacts],
    vdxgk_run: RunDirectory,
    mode: str,
    kernel: Kernel,
) -> None:
    artifacts = vdxgk_prepare(kernel)
    assert artifacts.kernel_release.startswith(f"{kernel}.")
    evidence = prove(MODES[mode].options, artifacts, vdxgk_run.path, silent(), SELECTION)
    failures = {item.name: item.checklist.failures for item in evidence.items() if not item.ok}
    assert not failures
    assert evidence.ok
    assert len(evidence.objects) == len(SELECTION)
    assert "DMA by messages" in [item.name for item in evidence.after]
    assert evidence.environment["default_domain"].startswith(MODES[mode].default_domain)


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
