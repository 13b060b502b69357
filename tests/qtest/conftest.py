"""Fixtures of the lane without an operating system.

A host on which QEMU cannot be set up skips the cases, and fails them where
CI is set.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest

from tests.qtest.lane import KINDS, PATHS, Kind, Lane, open_lane
from vdxgk_lab import qemu_binary
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import LabError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.page_table import TableIommu
from vdxgk_lab.run_directory import RunDirectory


@pytest.fixture(scope="session")
def qemu() -> QemuBinary:
    # Some cases make QEMU abort: its memory need not go to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        return qemu_binary.find(Cache(), Reporter())
    except LabError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def lane(kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[Lane]:
    """The adapter behind each IOMMU, which translates: nothing is mapped."""
    with open_lane(kind, qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        yield lane


@pytest.fixture
def idle_lane(kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[Lane]:
    """The adapter behind each IOMMU, which the guest has not turned on."""
    with open_lane(kind, qemu, vdxgk_run.path) as lane:
        yield lane


@pytest.fixture
def table_iommu(lane: Lane) -> TableIommu:
    """The lane's IOMMU, of a kind that walks tables which the guest can change."""
    assert isinstance(lane.iommu, TableIommu)
    return lane.iommu


@pytest.fixture(params=list(PATHS.values()), ids=list(PATHS))
def path(request: pytest.FixtureRequest) -> int:
    """The engine's flag for one of its two ways to memory."""
    flags: int = request.param
    return flags
