"""Faults that are not logged, or not well."""

from __future__ import annotations

import pytest

from tests.qtest.findings.finding import LOGICAL, MESSAGES, Defect, finding
from tests.qtest.lane import (
    BUFFER,
    Kind,
    open_lane,
)
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest import amdvi
from vdxgk_lab.qtest.iommu import PAGE, Access
from vdxgk_lab.run_directory import RunDirectory


@finding
def test_intel_a_refused_write_leaves_no_fault_once_the_page_was_read(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.iommu.map(LOGICAL, BUFFER, PAGE, Access.READ)
        assert lane.dma_write(LOGICAL, 8, 2, MESSAGES).status != 0
        assert len(lane.iommu.faults()) == 1  # so it is logged, as long as nothing is cached
        lane.assert_reads(LOGICAL, content, MESSAGES)
        assert lane.dma_write(LOGICAL, 8, 2, MESSAGES).status != 0
        if lane.iommu.faults() == []:
            raise Defect("the write was refused, and no fault was recorded")


@finding
def test_amd_status_bits_are_set_by_who_clears_them(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    status = amdvi.REGISTERS + 0x2020
    guest_log = 1 << 10 | 1 << 9  # GALInt, GALOverflow: write 1 to clear
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        assert lane.qtest.load(status, 8) & guest_log == 0
        for _ in range(2):
            lane.qtest.store(status, guest_log, 8)
        if lane.qtest.load(status, 8) & guest_log:
            raise Defect(f"status {lane.qtest.load(status, 8):#x} after the bits were cleared")


@finding
def test_amd_page_fault_events_hold_no_address(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        fault = lane.iommu.faults()[0]
        if fault.address == 0:
            raise Defect("IO_PAGE_FAULT at address 0")
        assert fault.address // PAGE == LOGICAL // PAGE


@finding
def test_amd_page_fault_events_of_writes_look_like_reads(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        if not lane.iommu.faults()[0].write:
            raise Defect("IO_PAGE_FAULT with RW=0 for a write")


@finding
@pytest.mark.parametrize("kind", ["virtio", "amd"])
def test_one_refused_access_is_reported_twice(
    qemu: QemuBinary, vdxgk_run: RunDirectory, kind: Kind
) -> None:
    with open_lane(kind, qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        faults = lane.iommu.faults()
        if len(faults) == 2:
            raise Defect(f"{faults}")
        assert len(faults) == 1


@finding
def test_virtio_a_fault_does_not_say_read_or_write(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("virtio", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.iommu.map(LOGICAL + PAGE, BUFFER, PAGE, Access.READ)
        lane.dma_write(LOGICAL + PAGE, 8, 1, MESSAGES)
        assert lane.iommu.faults()[0].write  # it does, of a mapping that forbids the write
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        if lane.iommu.faults()[0].write is None:
            raise Defect("neither VIRTIO_IOMMU_FAULT_F_READ nor _WRITE")
