"""Each proof fails when it should: one thing is made wrong, and the right check goes red."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Bench
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import PAGE, ObjectCase
from vdxgk_lab.proof.objects import Made, exercise, tear_down
from vdxgk_lab.proof.stub import StubRefused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

UNSUCCESSFUL = 0xC0000001
INVALID_HANDLE = 0xC0000008
MDL = ObjectCase("MDL", "mdl", 16 * PAGE)
NOWHERE = (1 << 64) - 1


@pytest.fixture
def healthy(bench: Bench) -> Iterator[Bench]:
    """Before and after, everything works and nothing is left."""
    assert bench.status()["objects"] == []
    yield bench
    bench.stub.sabotage("none")
    made = exercise(bench.stub, bench.announced, MDL, 0x77)
    assert made.evidence.ok, made.evidence.checklist.failures
    tear_down(bench.stub, made)
    assert bench.status()["objects"] == []


def red(made: Made) -> dict[str, str]:
    """The checks that failed."""
    return {check.name: check.detail for check in made.evidence.checklist.failures}


@pytest.mark.parametrize("page", [0, 9, 15])
@pytest.mark.parametrize("kind", ["skip", "wrong", "read-only"])
def test_a_wrong_mapping_never_becomes_a_list(healthy: Bench, kind: str, page: int) -> None:
    stub = healthy.stub
    created = stub.create(MDL)
    failures_before = healthy.device.log.read_text().count("remapping failure")
    stub.sabotage(kind, page)
    with pytest.raises(StubRefused) as refusal:
        stub.allocate_adl(created.adapter_object, MDL.size)
    assert refusal.value.status == UNSUCCESSFUL

    event = healthy.last_event("remap-failure")
    pages = [base + offset for base, size in created.runs for offset in range(0, size, PAGE)]
    expected, found = int(event["expected"], 16), int(event["found"], 16)
    assert expected == pages[page]
    assert found == {"skip": NOWHERE, "read-only": expected}.get(kind, found)
    if kind == "wrong":
        assert found not in (NOWHERE, expected)
    log = healthy.device.log.read_text()
    assert log.count("remapping failure") == failures_before + 1
    assert f"expected={pages[page]:#x}" in log

    # The same list without the sabotage is live, and the object is whole.
    adl = stub.allocate_adl(created.adapter_object, MDL.size)
    stub.free_adl(adl.id)
    stub.destroy(created.object, created.adapter_object)


def test_a_page_left_mapped_is_found_when_the_list_is_freed(healthy: Bench) -> None:
    made = exercise(healthy.stub, healthy.announced, MDL, 1)
    assert made.evidence.ok
    assert made.adl
    healthy.stub.sabotage("leave", 5)
    with pytest.raises(StubRefused) as refusal:
        healthy.stub.free_adl(made.adl.id)
    assert refusal.value.status == UNSUCCESSFUL
    event = healthy.last_event("remap-failure")
    assert int(event["logical"], 16) == made.logical + 5 * PAGE
    # Disarming unmaps the page and releases the list.
    healthy.stub.sabotage("none")
    healthy.stub.destroy(made.object, made.adapter_object)


def test_a_stale_handle_in_an_answer_is_noticed(healthy: Bench) -> None:
    first = healthy.stub.create(MDL)
    healthy.stub.destroy(first.object, first.adapter_object)
    healthy.misbehave("stale-handle")
    made = exercise(healthy.stub, healthy.announced, MDL, 2)
    assert not made.evidence.ok
    assert f"{INVALID_HANDLE:#010x}" in red(made)["every call succeeds"]
    # The object lives under its true handle, which only the backend knows.
    tear_down(healthy.stub, made)
    assert f"{INVALID_HANDLE:#010x}" in red(made)["freed and destroyed"]
    # So the shim and the backend disagree for good; a new start of the driver mends it.
    assert len(healthy.status()["objects"]) == 1
    assert scenarios.unload_stub(healthy.guest)
    assert scenarios.load_stub(healthy.guest, "logical")


def test_one_flipped_bit_of_the_device_is_seen_by_the_guest(healthy: Bench) -> None:
    healthy.misbehave("corrupt-write")
    made = exercise(healthy.stub, healthy.announced, MDL, 3)
    assert list(red(made)) == ["the guest reads what the device wrote"]
    assert f"{MDL.size // 2:#x}" in red(made)["the guest reads what the device wrote"]
    tear_down(healthy.stub, made)


def test_a_byte_written_outside_every_object_is_seen(bench: Bench) -> None:
    assert scenarios.canaries_are_untouched(bench.stub).ok
    bench.misbehave("stray-write")
    made = exercise(bench.stub, bench.announced, MDL, 4)
    assert made.evidence.ok, "the object itself is whole"
    canaries = scenarios.canaries_are_untouched(bench.stub)
    assert [check.name for check in canaries.checklist.failures] == ["damaged pages"]
    tear_down(bench.stub, made)


def test_a_device_that_ignores_the_unmap_is_caught(healthy: Bench) -> None:
    healthy.misbehave("ignore-unmap")
    evidence = scenarios.a_freed_list_is_refused(
        healthy.guest, healthy.stub, healthy.status, healthy.announced
    )
    names = [check.name for check in evidence.checklist.failures]
    assert "descriptors: the engine reports a fault" in names
    assert "nothing changed" in names
