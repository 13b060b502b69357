"""The conformance vectors against the backend's model and through the raw channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vdxgk.raw_guest import serving
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.conformance import Vector, load, run
from vdxgk.conformance.vector import CALLS
from vdxgk.conformance.worlds.channel import RawImplementation
from vdxgk.conformance.worlds.guest_side import DMA_BITS
from vdxgk.conformance.worlds.model import ModelImplementation

VECTORS = load()
EACH = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)


@EACH
def test_model(vector: Vector) -> None:
    implementation = ModelImplementation()
    result = run(vector, implementation)
    assert not result.failures
    assert not result.unobserved
    backend = implementation.backend
    held = (backend.objects, backend.openings, backend.lists, backend.cpu_mappings)
    assert [len(table) for table in held] == [1, 1, 0, 0]  # the save area
    (save_area,) = backend.objects
    in_it = sum(run.size for run in save_area.runs)
    assert backend.pool.free_bytes + in_it == backend.pool.donated
    assert not implementation.world.table.pages


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Adapter, RawImplementation]]:
    """One adapter behind a socket for all vectors: what one leaves, the next stumbles over."""
    directory: Path = tmp_path_factory.mktemp("conformance")
    with serving(directory, AdapterOptions(dma_bits=DMA_BITS)) as (adapter, path):
        raw = RawImplementation(path)
        yield adapter, raw
        raw.close()


@EACH
def test_raw_channel(vector: Vector, served: tuple[Adapter, RawImplementation]) -> None:
    adapter, raw = served
    result = run(vector, raw)
    assert not result.failures
    assert not result.unobserved
    backend = adapter.backend
    with backend.lock:
        held = (backend.objects, backend.openings, backend.lists, backend.cpu_mappings)
        assert [len(table) for table in held] == [1, 1, 0, 0]  # the save area


def test_there_are_enough_of_each() -> None:
    assert len(VECTORS) >= 250
    called = {step.call for vector in VECTORS for step in vector.steps}
    assert called == set(CALLS)
    assert {vector.basis for vector in VECTORS} >= {"documented", "header", "inferred"}
    assert any(vector.status_basis == "observed" for vector in VECTORS)
