"""What only virtio-iommu has: domains, its own checks, maps that are cut and put together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.qtest.lane import BUFFER, REQUESTER, Lane, open_lane
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import LARGE, PAGE
from vdxgk_lab.qtest.virtio_iommu import (
    REASON_UNKNOWN,
    RequestFailed,
    Status,
    VirtioIommu,
)
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000


@pytest.fixture
def virtio(qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[tuple[Lane, VirtioIommu]]:
    edu = ({"driver": "edu", "addr": "06.0"},)
    with open_lane("virtio", qemu, vdxgk_run.path, devices=edu) as lane:
        assert isinstance(lane.iommu, VirtioIommu)
        lane.iommu.enable()
        yield lane, lane.iommu


def test_a_map_is_announced_in_aligned_powers_of_two(
    virtio: tuple[Lane, VirtioIommu], path: int
) -> None:
    lane, iommu = virtio
    content = lane.buffer(BUFFER, 3 * PAGE, 1)
    iommu.map(LOGICAL + PAGE, BUFFER, 3 * PAGE)
    assert lane.mapped() == [(LOGICAL + PAGE, PAGE, 3), (LOGICAL + 2 * PAGE, 2 * PAGE, 3)]
    lane.assert_reads(LOGICAL + PAGE, content, path)


def test_a_map_over_a_mapping_is_refused_and_changes_nothing(
    virtio: tuple[Lane, VirtioIommu], path: int
) -> None:
    lane, iommu = virtio
    content = lane.buffer(BUFFER, 2 * PAGE, 1)
    iommu.map(LOGICAL, BUFFER, 2 * PAGE)
    with pytest.raises(RequestFailed) as refused:
        iommu.map(LOGICAL + PAGE, BUFFER + LARGE, 2 * PAGE)
    assert refused.value.status is Status.INVAL
    lane.assert_reads(LOGICAL, content, path)
    lane.assert_read_refused(LOGICAL + 2 * PAGE, path)


def test_an_unmap_inside_a_mapping_is_refused_and_changes_nothing(
    virtio: tuple[Lane, VirtioIommu], path: int
) -> None:
    lane, iommu = virtio
    content = lane.buffer(BUFFER, LARGE, 1)
    iommu.map(LOGICAL, BUFFER, LARGE)
    with pytest.raises(RequestFailed) as refused:
        iommu.unmap(LOGICAL + PAGE, PAGE)
    assert refused.value.status is Status.RANGE
    lane.assert_reads(LOGICAL, content, path)
    iommu.unmap(LOGICAL, LARGE)
    assert lane.mapped() == []


def test_another_domain_has_other_mappings(virtio: tuple[Lane, VirtioIommu], path: int) -> None:
    lane, iommu = virtio
    content = lane.buffer(BUFFER, PAGE, 1)
    iommu.map(LOGICAL, BUFFER, PAGE)
    # A second function keeps the first domain alive.
    iommu.attach(1, REQUESTER + 8)
    iommu.attach(2, REQUESTER)
    assert lane.mapped() == []
    lane.assert_read_refused(LOGICAL, path)
    iommu.attach(1, REQUESTER)
    assert lane.mapped() == [(LOGICAL, PAGE, 3)]
    lane.assert_reads(LOGICAL, content, path)


def test_without_bypass_a_function_in_no_domain_reaches_nothing(
    virtio: tuple[Lane, VirtioIommu], path: int
) -> None:
    lane, iommu = virtio
    content = lane.buffer(BUFFER, PAGE, 1)
    iommu.set_bypass(False)
    iommu.detach()
    assert lane.dma_write(BUFFER, 8, 2, path).status != 0
    assert lane.qtest.read(BUFFER, PAGE) == content
    assert {fault.reason for fault in iommu.faults()} == ({REASON_UNKNOWN} if path else set())
    # The opposite.
    iommu.set_bypass(True)
    lane.assert_reads(BUFFER, content, path)
