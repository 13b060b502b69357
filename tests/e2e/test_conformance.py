"""The conformance vectors in a guest on real QEMU: all of them in one machine."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Bench
from vdxgk.conformance import Result, Vector, load, run_together
from vdxgk_lab.guest_conformance import GuestImplementation

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# One guest has one adapter, and its miniport frees only lists that it holds.
VECTORS = tuple(vector for vector in load() if not vector.requires)


@pytest.fixture(scope="module")
def results(bench: Bench) -> dict[str, Result]:
    return run_together(VECTORS, GuestImplementation(bench.guest))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_guest(vector: Vector, results: dict[str, Result]) -> None:
    result = results[vector.id]
    assert not result.failures
    assert not result.unobserved


def test_nothing_is_left(bench: Bench, results: dict[str, Result]) -> None:
    answer = bench.stub.call("status")
    assert (answer["objects"], answer["adls"], answer["views"]) == (0, 0, 0)
    assert not answer["dead"]
    assert bench.stub.canary().damaged == 0
