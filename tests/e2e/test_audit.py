"""The audit of a real guest says exactly what its driver mapped, how, and for how long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdxgk.control import ask
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.audit import history, log, report
from vdxgk_lab.audit.history import BOTH_ACCESSES, Class, Fate, Pieces
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import PAGE, ObjectCase
from vdxgk_lab.proof.stub import CreateReply, Stub
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine
from vdxgk_lab.run_directory import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

GUEST = 1 << 30
OBJECT = ObjectCase("MDL", "mdl", 16 * PAGE)


def pages(pieces: Pieces) -> dict[int, int]:
    """Guest-physical page by logical page."""
    return {
        int(piece["first"]) + into: int(piece["physical"]) + into
        for piece in pieces
        for into in range(0, int(piece["last"]) + 1 - int(piece["first"]), PAGE)
    }


def expected(created: CreateReply, logical: int) -> dict[int, int]:
    """What a list of the whole object must map."""
    physical = [base + into for base, size in created.runs for into in range(0, size, PAGE)]
    return {logical + index * PAGE: page for index, page in enumerate(physical)}


def test_exactly_the_drivers_pages(
    vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine
) -> None:
    path = vdxgk_run.path / "guest.audit"
    device = vdxgk_start_device("--audit", str(path))
    config = MachineConfig(memory=GUEST, devices=(device.socket,), kernel_args=("vdxgk_load=no",))
    machine = vdxgk_start_machine(config)
    assert scenarios.load_stub(machine.guest, "logical"), machine.console[-2000:]
    stub = Stub(machine.guest)
    mark(device, "started")
    freed, kept = stub.create(OBJECT), stub.create(OBJECT)
    freed_list = stub.allocate_adl(freed.adapter_object, OBJECT.size)
    mark(device, "one list")
    kept_list = stub.allocate_adl(kept.adapter_object, OBJECT.size)
    mark(device, "two lists")
    stub.free_adl(freed_list.id)
    mark(device, "one is freed")
    machine.__exit__(None, None, None)  # nobody unmaps the other
    device.stop()

    found = log.read(path)
    assert found.complete
    past = history.replay(found)
    moments = {text: time for time, text in found.marks()}
    first, second = expected(freed, freed_list.logical), expected(kept, kept_list.logical)
    for moment, wanted in {
        "started": {},
        "one list": first,
        "two lists": first | second,
        "one is freed": second,
    }.items():
        alive = past.alive(moments[moment])
        alive = alive[alive["kind"] == Class.TRANSLATED]
        assert pages(alive) == wanted, moment
        assert {int(access) for access in alive["access"]} <= {BOTH_ACCESSES}

    analysis = report.analyse(found, past)
    facts = analysis.report
    assert facts.ram == GUEST
    lasting = {
        item.logical + into: (item.physical or 0) + into
        for item in facts.never_unmapped
        for into in range(0, item.size, PAGE)
    }
    assert lasting == second
    assert {item.fate for item in facts.never_unmapped} == {"disconnected"}
    unmapped = past.pieces[past.pieces["fate"] == Fate.UNMAPPED]
    unmapped = unmapped[unmapped["kind"] == Class.TRANSLATED]
    ours = unmapped[unmapped["first"] >= freed_list.logical]
    ours = ours[ours["first"] < freed_list.logical + OBJECT.size]
    assert pages(ours) == first
    assert (ours["born"] < moments["one list"]).all()
    assert (ours["died"] > moments["two lists"]).all()
    assert (ours["died"] < moments["one is freed"]).all()
    # Before the guest's kernel turned its IOMMU on, all of memory was open.
    assert facts.untranslated_reachable == GUEST
    names = [phase.name for phase in facts.phases]
    assert names[:3] == ["nothing mapped", "identity", "nothing mapped"]
    assert analysis.reachable.at(moments["two lists"]) == 2 * OBJECT.size


def mark(device: DeviceProcess, text: str) -> None:
    ask(str(device.control), "audit-mark", text=text)


def test_one_command_for_a_stock_guest(vdxgk_artifacts: Artifacts, tmp_path: Path) -> None:
    """All of memory is within reach until the kernel turns its IOMMU on; then nothing is."""
    assert vdxgk_artifacts
    words = ("audit", "--boot", "boot.audit", "--json", "--seconds", "0", "--do", "uname -r")
    run = subprocess.run(
        [sys.executable, "-m", "vdxgk_lab", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    facts = json.loads(run.stdout)
    assert facts["complete"]
    assert facts["untranslated_reachable"] == facts["ram"] == GUEST
    assert facts["translations"]["mappings"] == 0
    moments = {moment["name"]: moment["reachable"] for moment in facts["moments"]}
    assert moments["$ uname -r"] == moments["guest is up"] == 0
    assert (tmp_path / "boot.audit").exists()
