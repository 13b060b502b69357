"""Fixtures: a served device, and clients that have negotiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio_user import Client, DmaPolicy

from .rig import Asker, Raw, Rig, RigMaker, open_descriptors


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[RigMaker]:
    rigs: list[Rig] = []

    def make(
        *,
        policy: DmaPolicy = "tolerant",
        handshake_seconds: float = 30.0,
        migratable: bool = True,
    ) -> Rig:
        path = tmp_path / f"device{len(rigs)}.sock"
        rigs.append(
            Rig(path, policy=policy, handshake_seconds=handshake_seconds, migratable=migratable)
        )
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


@pytest.fixture(params=["client", "raw"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[Rig], Asker]]:
    """Connect to a rig, by our client and then, in a test of its own, by the raw socket."""
    askers: list[Asker] = []

    def connect(rig: Rig) -> Asker:
        peer: Client | Raw = Client(rig.path) if request.param == "client" else Raw(rig.path)
        peer.negotiate()
        askers.append(Asker(peer))
        return askers[-1]

    yield connect
    for asker in askers:
        asker.close()


@pytest.fixture
def ask(rig: Rig, connect: Callable[[Rig], Asker]) -> Asker:
    return connect(rig)


@pytest.fixture
def ask_strict(make_rig: RigMaker, connect: Callable[[Rig], Asker]) -> Asker:
    return connect(make_rig(policy="strict"))
