"""Machines that cannot work, and the sentence that each of them gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof.evidence import ScenarioEvidence

CASES = (
    (
        "no caching mode",
        MachineConfig(memory=256 << 20, iommu_options={"caching-mode": False}),
        "caching-mode=on",
    ),
    ("private guest memory", MachineConfig(memory=256 << 20, share_memory=False), "share=on"),
)


def all_of_them(artifacts: Artifacts, directory: Path) -> Iterator[ScenarioEvidence]:
    """Start each, and see it refused before its guest runs."""
    for name, config, remedy in CASES:
        yield refused_with(artifacts, directory, name, config, remedy)


def refused_with(
    artifacts: Artifacts, directory: Path, name: str, config: MachineConfig, remedy: str
) -> ScenarioEvidence:
    """A machine with our device must be refused with a sentence that names `remedy`."""
    evidence = ScenarioEvidence(name)
    label = name.replace(" ", "-")
    with DeviceProcess(directory, name=f"{label}-device") as device:
        wrong = MachineConfig(
            memory=config.memory,
            iommu_options=config.iommu_options,
            share_memory=config.share_memory,
            devices=(device.socket,),
        )
        try:
            with Machine(wrong, artifacts, directory, label):
                evidence.checklist.expect("it is not started", False, "it was started")
        except Misconfigured as error:
            said = f"{error.message} {error.hint}"
            evidence.checklist.expect("it says what to change", remedy in said, said)
            evidence.outcome = f"diagnosed: {error.hint}"
        evidence.checklist.expect("the device lives", device.alive)
    return evidence
