"""The main job: everything that `vdxgk run` shows, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdxgk.control import ask
from vdxgk_lab import firmware
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.command_line import Accelerator, Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof import diagnosis, quirks, scenarios
from vdxgk_lab.proof.cases import OBJECTS, ObjectCase
from vdxgk_lab.proof.evidence import Evidence, ObjectEvidence, ScenarioEvidence
from vdxgk_lab.proof.objects import exercise, tear_down
from vdxgk_lab.proof.stub import Stub


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a user chooses. `memory` in bytes; `dma_bits` as of `vdxgk serve`."""

    memory: int = 6 << 30
    dma_bits: int = 32
    iommu: Iommu = "intel"
    accelerator: Accelerator = "auto"
    iommu_options: Mapping[str, object] = field(default_factory=dict)  # of QEMU's device
    kernel_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """Hears of each piece of evidence as it comes in."""

    environment: Callable[[dict[str, str]], None]
    scenario: Callable[[ScenarioEvidence], None]
    working: Callable[[str], None]
    objects: Callable[[list[ObjectEvidence]], None]


def device_status(control: Path) -> Callable[[], dict[str, Any]]:
    """What the device says of itself, whenever asked."""

    def status() -> dict[str, Any]:
        answer: dict[str, Any] = ask(str(control), "query-status")
        return answer

    return status


def announced_mappings(status: Callable[[], dict[str, Any]]) -> Callable[[int], int]:
    """How many mappings QEMU announced for the list at a logical address."""

    def announced(logical: int) -> int:
        return sum(
            adl["announced"]
            for target in status()["objects"]
            for adl in target["lists"]
            if adl["logical"] == logical
        )

    return announced


def prove(
    options: RunOptions,
    artifacts: Artifacts,
    directory: Path,
    listener: Listener,
    cases: tuple[ObjectCase, ...] = OBJECTS,
) -> Evidence:
    """Boot a guest and do all of it.  Logs go to `directory`.

    Raises LabError if the machine cannot be had; what fails in it is
    evidence.
    """
    began = time.monotonic()
    serving = ["--dma-bits", str(options.dma_bits), *firmware.rom_options(artifacts.qemu)]
    with DeviceProcess(directory, serving) as device:
        config = MachineConfig(
            memory=options.memory,
            iommu=options.iommu,
            iommu_options=options.iommu_options,
            accelerator=options.accelerator,
            devices=(device.socket,),
            kernel_args=("vdxgk_load=no", *options.kernel_args),
        )
        listener.working("booting the guest")
        with Machine(config, artifacts, directory) as machine:
            evidence = Evidence(
                {
                    "qemu": artifacts.qemu.version,
                    "iommu": f"{options.iommu}-iommu",
                    "kernel": artifacts.kernel_release,
                    "accelerator": machine.accelerator,
                    "memory": f"{options.memory / (1 << 30):g} GiB",
                    "reach": f"{(1 << options.dma_bits) / (1 << 30):g} GiB",
                }
            )
            listener.environment(evidence.environment)
            silent = quirks.iommu_must_be_silent(options.iommu, artifacts.kernel_release)
            if silent:
                quirks.silence_iommu(machine.guest)
            _in_the_guest(options, machine, device, evidence, listener, cases, not silent)
            # Linux 6.12 gives a function behind a virtio-iommu no group before it has a driver.
            evidence.environment["default_domain"] = scenarios.default_domain(machine.guest)
    _diagnoses(artifacts, directory, evidence, listener)
    evidence.seconds = time.monotonic() - began
    return evidence


def _in_the_guest(
    options: RunOptions,
    machine: Machine,
    device: DeviceProcess,
    evidence: Evidence,
    listener: Listener,
    cases: tuple[ObjectCase, ...],
    iommu_logs: bool,
) -> None:
    guest, stub = machine.guest, Stub(machine.guest)
    status = device_status(device.control)
    announced = announced_mappings(status)

    def before(item: ScenarioEvidence) -> None:
        evidence.before.append(item)
        listener.scenario(item)

    def after(item: ScenarioEvidence) -> None:
        evidence.after.append(item)
        listener.scenario(item)

    if options.memory > 1 << options.dma_bits:
        before(scenarios.physical_mode_is_refused(guest))
    before(scenarios.logical_mode_starts(guest, stub))
    if not evidence.before[-1].ok:
        return
    made = []
    for number, case in enumerate(cases):
        listener.working(f"{case.name}, {case.size} bytes")
        made.append(exercise(stub, announced, case, number))
        evidence.objects.append(made[-1].evidence)
    listener.objects(evidence.objects)
    listener.working("reading everything again")
    after(scenarios.contents_survived(stub, made))
    after(scenarios.canaries_are_untouched(stub))
    after(scenarios.messages_reach_remapped_memory(stub, announced))
    after(scenarios.nothing_granted_is_refused(guest, stub, status, made[0], iommu_logs=iommu_logs))
    after(scenarios.a_freed_list_is_refused(guest, stub, status, announced, iommu_logs=iommu_logs))
    for item in made:
        tear_down(stub, item)
    after(scenarios.nothing_is_left(guest, status))


def _diagnoses(
    artifacts: Artifacts, directory: Path, evidence: Evidence, listener: Listener
) -> None:
    for item in diagnosis.all_of_them(artifacts, directory):
        evidence.after.append(item)
        listener.scenario(item)
