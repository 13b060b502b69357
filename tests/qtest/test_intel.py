"""What only VT-d has: its registers, its kinds of invalidation, its context entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.qtest.lane import BUFFER, REQUESTER, Lane, open_lane
from vdxgk.channel import layout
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest import vtd
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access, IommuFault
from vdxgk_lab.qtest.vtd import IntelIommu, Invalidation
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000
OTHER = BUFFER + 8 * LARGE
MESSAGES = layout.ENGINE_MESSAGES


@pytest.fixture
def intel(qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[tuple[Lane, IntelIommu]]:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, IntelIommu)
        lane.iommu.enable()
        yield lane, lane.iommu


@pytest.mark.parametrize("invalidation", ["queued", "registers"])
@pytest.mark.parametrize(
    "how",
    [
        lambda registers: registers.invalidate_all(),
        lambda registers: registers.invalidate_domain(),
        lambda registers: registers.invalidate_pages(LOGICAL),
        lambda registers: registers.invalidate_pages(LOGICAL, 9),
    ],
    ids=["global", "domain", "page", "512 pages"],
)
def test_each_kind_of_invalidation_reaches_the_device(
    qemu: QemuBinary,
    vdxgk_run: RunDirectory,
    path: int,
    invalidation: Invalidation,
    how: Callable[[vtd.RegisterBlock], None],
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        iommu = IntelIommu(lane.qtest, lane.frames, REQUESTER, invalidation)
        iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        iommu.table.set(LOGICAL, BUFFER, PAGE, Access.BOTH, PAGE)
        how(iommu.registers)
        lane.assert_reads(LOGICAL, content, path)
        iommu.table.clear(LOGICAL, PAGE, PAGE)
        lane.assert_reads(LOGICAL, content, path)
        how(iommu.registers)
        lane.assert_read_refused(LOGICAL, path)


def test_a_cleared_context_entry_takes_everything_away(
    intel: tuple[Lane, IntelIommu], path: int
) -> None:
    lane, iommu = intel
    content = lane.buffer(BUFFER, PAGE, 1)
    iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content, path)
    iommu.detach()
    iommu.registers.invalidate_contexts()
    iommu.registers.invalidate_all()
    assert lane.mapped() == []
    assert lane.dma_read(LOGICAL, 8, path).status != 0
    not_present = 2  # the context entry's present bit is clear
    reasons = [fault.reason for fault in iommu.faults()]
    assert reasons == ([not_present] if path else [])
    iommu.attach()
    iommu.registers.invalidate_contexts()
    iommu.registers.invalidate_all()
    lane.assert_reads(LOGICAL, content, path)


def test_pass_through_is_no_protection(intel: tuple[Lane, IntelIommu], path: int) -> None:
    lane, iommu = intel
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.assert_read_refused(BUFFER, path)
    iommu.attach(pass_through=True)
    iommu.registers.invalidate_contexts()
    iommu.registers.invalidate_all()
    lane.assert_reads(BUFFER, content, path)
    iommu.attach()
    iommu.registers.invalidate_contexts()
    iommu.registers.invalidate_all()
    lane.assert_read_refused(BUFFER, path)


def test_the_fault_record_names_function_page_and_access(
    intel: tuple[Lane, IntelIommu],
) -> None:
    lane, iommu = intel
    assert not iommu.registers.load(vtd.FSTS, 4) & vtd.FAULT_PENDING
    lane.dma_write(LOGICAL + 0x128, 8, 1, MESSAGES)
    assert iommu.registers.load(vtd.FSTS, 4) & vtd.FAULT_PENDING
    assert iommu.faults() == [IommuFault(REQUESTER, LOGICAL, True, vtd.REASON_WRITE)]
    assert not iommu.registers.load(vtd.FSTS, 4) & vtd.FAULT_PENDING
    lane.dma_read(LOGICAL + PAGE + 0x128, 8, MESSAGES)
    assert iommu.faults() == [IommuFault(REQUESTER, LOGICAL + PAGE, False, vtd.REASON_READ)]


def test_an_address_beyond_the_tables_is_a_fault(intel: tuple[Lane, IntelIommu], path: int) -> None:
    """With four levels 2^48 would be page 0 if the upper bits were dropped."""
    lane, iommu = intel
    content = lane.buffer(BUFFER, PAGE, 1)
    iommu.map(0, BUFFER, PAGE)
    lane.assert_reads(0, content, path)
    beyond = iommu.aperture_end + 1
    assert lane.dma_write(beyond, 8, 2, path).status != 0
    too_high = 4  # beyond the address width of the tables
    assert [fault.reason for fault in iommu.faults()] == ([too_high] if path else [])
    assert lane.qtest.read(BUFFER, PAGE) == content


def test_scalable_mode_hardware_in_legacy_mode(
    qemu: QemuBinary, vdxgk_run: RunDirectory, path: int
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path, iommu={"scalable-mode": True}) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.iommu.map(LOGICAL, BUFFER, PAGE)
        lane.assert_reads(LOGICAL, content, path)
        lane.assert_read_refused(BUFFER, path)
