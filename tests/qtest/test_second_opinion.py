"""QEMU's own test devices behind the same IOMMU agree with ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.qtest.lane import BUFFER, Kind, Lane, open_lane
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import PAGE, Access
from vdxgk_lab.qtest.oracles import Edu, IommuTestDevice
from vdxgk_lab.qtest.pci import PciFunction
from vdxgk_lab.run_directory import RunDirectory

TESTDEV_SLOT, EDU_SLOT = 6, 7
LOGICAL = 0x0456_7000  # edu emits 28 bits
OTHER = 0x0567_8000
OFFSET = 0x40


@pytest.fixture
def shared_domain(kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[Lane]:
    """The adapter and both test devices in one domain."""
    devices = (
        {"driver": "iommu-testdev", "addr": f"{TESTDEV_SLOT:02x}.0"},
        {"driver": "edu", "addr": f"{EDU_SLOT:02x}.0"},
    )
    with open_lane(kind, qemu, vdxgk_run.path, devices=devices) as lane:
        lane.iommu.enable()
        for slot in (TESTDEV_SLOT, EDU_SLOT):
            lane.iommu.join(slot << 3)
        yield lane


def test_iommu_testdev_and_the_adapter_reach_the_same_memory(
    shared_domain: Lane, path: int
) -> None:
    lane = shared_domain
    other = IommuTestDevice(lane.qtest, PciFunction(lane.qtest, TESTDEV_SLOT), lane.window)
    content = lane.buffer(BUFFER, PAGE, 1)
    assert not other.run(LOGICAL + OFFSET, BUFFER + OFFSET)
    assert lane.dma_read(LOGICAL, PAGE, path).status != 0
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    assert other.run(LOGICAL + OFFSET, BUFFER + OFFSET)
    changed = content[:OFFSET] + IommuTestDevice.PATTERN + content[OFFSET + 4 :]
    lane.assert_reads(LOGICAL, changed, path)
    lane.iommu.unmap(LOGICAL, PAGE)
    lane.qtest.write(BUFFER, content)
    assert not other.run(LOGICAL + OFFSET, BUFFER + OFFSET)
    assert lane.dma_read(LOGICAL, PAGE, path).status != 0
    assert lane.qtest.read(BUFFER, PAGE) == content


def test_edu_and_the_adapter_are_refused_the_same_write(shared_domain: Lane, path: int) -> None:
    lane = shared_domain
    edu = Edu(lane.qtest, PciFunction(lane.qtest, EDU_SLOT), lane.window)
    source = lane.buffer(BUFFER, PAGE, 1)
    target = lane.buffer(BUFFER + 8 * PAGE, PAGE, 2)
    lane.iommu.map(LOGICAL, BUFFER, PAGE, Access.READ)
    lane.iommu.map(OTHER, BUFFER + 8 * PAGE, PAGE, Access.READ)
    edu.copy(LOGICAL, OTHER, PAGE)
    assert lane.dma_write(OTHER, PAGE, 3, path).status != 0
    assert lane.qtest.read(BUFFER + 8 * PAGE, PAGE) == target
    # The opposite: writable, both change it.
    lane.iommu.unmap(OTHER, PAGE)
    lane.iommu.map(OTHER, BUFFER + 8 * PAGE, PAGE)
    edu.copy(LOGICAL, OTHER, PAGE)
    assert lane.qtest.read(BUFFER + 8 * PAGE, PAGE) == source
    lane.assert_reads(OTHER, source, path)
    lane.assert_writes(OTHER, PAGE, 3, path)


def test_a_logical_address_of_another_device(
    kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory, path: int
) -> None:
    """What is mapped for us is not mapped for a device in no domain."""
    devices = ({"driver": "iommu-testdev", "addr": f"{TESTDEV_SLOT:02x}.0"},)
    with open_lane(kind, qemu, vdxgk_run.path, devices=devices) as lane:
        lane.iommu.enable()
        other = IommuTestDevice(lane.qtest, PciFunction(lane.qtest, TESTDEV_SLOT), lane.window)
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.iommu.map(LOGICAL, BUFFER, PAGE)
        lane.assert_reads(LOGICAL, content, path)
        assert not other.run(LOGICAL, BUFFER)
        assert lane.qtest.read(BUFFER, PAGE) == content
        # The opposite: in our domain, it is.
        lane.iommu.join(TESTDEV_SLOT << 3)
        assert other.run(LOGICAL, BUFFER)
