"""Exclusive access in a guest: another domain is attached, and no DMA happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Bench
from vdxgk_lab.proof.stub import StubRefused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SIZE = 256 << 10
VALUE, STEP = 0x1234567890ABCDEF, 0x9E3779B97F4A7C15


def call(bench: Bench, line: str) -> dict[str, Any]:
    return bench.stub.call(*line.split())


@pytest.fixture
def listed(bench: Bench) -> Iterator[tuple[int, int]]:
    """A scattered object that the device has written, and its logical address."""
    made = call(bench, f"create --type mdl --size {SIZE}")
    adl = call(bench, f"adl {made['adapter_object']} --size {SIZE} --prefer-contiguous")
    address = int(adl["logical"], 16)
    bench.stub.device_fill(address, SIZE, VALUE, STEP)
    yield int(made["object"], 16), address
    call(bench, f"free {adl['adl']}")
    call(bench, f"destroy {made['object']} {made['adapter_object']}")


def test_a_list_outlives_the_switch(bench: Bench, listed: tuple[int, int]) -> None:
    target, address = listed
    before = bench.stub.device_crc32(address, SIZE)
    unmaps = bench.status()["dma_unmaps"]
    for _ in range(3):
        answer = call(bench, "exclusive")
        assert (answer["switched"], answer["mode"], answer["violations"]) == (True, "logical", 0)
    assert bench.stub.device_crc32(address, SIZE) == before
    assert bench.status()["dma_unmaps"] > unmaps, "the hypervisor saw no other domain"
    assert bench.status()["exclusive_violations"] == 0
    assert bench.stub.read(target, SIZE, VALUE, STEP).mismatch is None


def test_a_device_that_does_not_keep_still_is_seen(bench: Bench, listed: tuple[int, int]) -> None:
    bench.misbehave("exclusive-dma")
    assert call(bench, "exclusive")["violations"] == 1
    event = bench.last_event("exclusive-violation")
    assert int(event["p1"], 16) == listed[1]
    assert bench.status()["exclusive_violations"] == 1
    assert "DMA within exclusive access" in bench.device.log.read_text()


def test_a_page_that_the_new_domain_lacks_is_seen(bench: Bench, listed: tuple[int, int]) -> None:
    call(bench, "sabotage skip --page 5")
    with pytest.raises(StubRefused) as refused:
        call(bench, "exclusive")
    assert refused.value.answer["name"] == "STATUS_UNSUCCESSFUL"
    event = bench.last_event("bugcheck")
    assert (event["code"], event["p1"]) == ("0x1e4", "0xa")
    assert int(bench.last_event("remap-failure")["logical"], 16) == listed[1] + 5 * 4096
    call(bench, "sabotage none")
    assert call(bench, "exclusive")["violations"] == 0, "another switch mends it"


def test_physical_mode_is_refused(bench: Bench) -> None:
    with pytest.raises(StubRefused) as refused:
        call(bench, "exclusive physical")
    assert refused.value.answer["name"] == "STATUS_NOT_SUPPORTED"
    assert call(bench, "status")["mode"] == "logical"


def test_the_save_area_is_reached_and_keeps_what_it_holds(bench: Bench) -> None:
    pinned = call(bench, "pin --size 1M --prefer-contiguous --limit 256")
    assert pinned["page_count"] == 256
    address = int(pinned["pages"][0], 16) << 12
    bench.stub.device_fill(address, SIZE, VALUE, STEP)
    before = bench.stub.device_crc32(address, SIZE)
    call(bench, "unpin")
    again = call(bench, "pin --size 1M --prefer-contiguous")
    address = int(again["pages"][0], 16) << 12
    assert bench.stub.device_crc32(address, SIZE) == before
    call(bench, "unpin")
    assert bench.stub.dma("crc32", source=address, size=4096).faulted
