"""Fixtures: a served device, and clients that have negotiated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio_user import Client, DmaPolicy

from .rig import Raw, Rig, RigMaker, open_descriptors


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[RigMaker]:
    rigs: list[Rig] = []

    def make(*, policy: DmaPolicy = "tolerant", handshake_seconds: float = 30.0) -> Rig:
        path = tmp_path / f"device{len(rigs)}.sock"
        rigs.append(Rig(path, policy=policy, handshake_seconds=handshake_seconds))
        return rigs[-1]

    before = open_descriptors()
    yield make
    for rig in rigs:
        rig.close()
    assert open_descriptors() == before, "a descriptor leaked"


@pytest.fixture
def rig(make_rig: RigMaker) -> Rig:
    return make_rig()


@pytest.fixture
def client(rig: Rig) -> Iterator[Client]:
    with Client(rig.path) as client:
        client.negotiate()
        yield client


@pytest.fixture
def raw(rig: Rig) -> Iterator[Raw]:
    raw = Raw(rig.path)
    raw.negotiate()
    yield raw
    raw.close()
