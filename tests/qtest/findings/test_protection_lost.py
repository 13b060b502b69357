"""Protection that is not there."""

from __future__ import annotations

import zlib

import pytest

from pyvfio_user import Access as Announced
from tests.qtest.findings.finding import LOGICAL, MESSAGES, Defect, finding, ranges
from tests.qtest.lane import (
    BUFFER,
    REQUESTER,
    open_lane,
    pattern,
)
from vdxgk.channel import layout
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.amdvi import AmdIommu
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access
from vdxgk_lab.qtest.msix import Msix
from vdxgk_lab.qtest.virtio_iommu import RequestFailed, VirtioIommu
from vdxgk_lab.qtest.vtd import GSTS, IntelIommu
from vdxgk_lab.qtest.vtd_interrupts import (
    COMPATIBILITY_FORMAT,
    COMPATIBLE,
    InterruptRemapping,
)
from vdxgk_lab.qtest.vtd_scalable import ScalableIommu
from vdxgk_lab.run_directory import RunDirectory


@finding
def test_intel_a_split_large_page_stays_announced(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        iommu = lane.iommu
        assert isinstance(iommu, IntelIommu)
        iommu.enable()
        iommu.map(LOGICAL, BUFFER, LARGE, leaf=LARGE)
        # One entry of 2 MiB becomes a table with one page in it.
        iommu.table.clear(LOGICAL, LARGE, LARGE)
        iommu.table.set(LOGICAL, BUFFER, PAGE, Access.BOTH, PAGE)
        iommu.invalidate(LOGICAL, LARGE)
        beyond = LOGICAL + 4 * PAGE
        assert lane.dma_write(beyond, 8, 1, MESSAGES).status != 0  # the IOMMU knows
        content = lane.buffer(BUFFER + 4 * PAGE, PAGE, 2)
        if lane.dma_write(beyond, 8, 1).status == 0:
            assert lane.qtest.read(BUFFER + 4 * PAGE, PAGE) == pattern(1, 8) + content[8:]
            raise Defect(f"still announced: {ranges(lane)}")


@finding
def test_intel_first_stage_pages_are_not_announced(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    properties = {"scalable-mode": True, "fsts": True}
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties) as lane:
        iommu = ScalableIommu(lane.qtest, lane.frames, REQUESTER, "first")
        iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        iommu.map(LOGICAL, BUFFER, PAGE)
        lane.assert_reads(LOGICAL, content, MESSAGES)
        if lane.mapped() == []:
            raise Defect("the IOMMU translates the page, and the device never hears of it")


@finding
def test_intel_first_stage_addresses_are_cut_to_the_second_stages_width(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    properties = {"scalable-mode": True, "fsts": True}
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties) as lane:
        iommu = ScalableIommu(lane.qtest, lane.frames, REQUESTER, "first")
        first_stage_present = 1 << 6 | 1  # and AW, which is the second stage's, 0
        lane.qtest.store(iommu.pasid_entry, first_stage_present, 8)
        iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        for logical in (PAGE, LOGICAL):
            iommu.map(logical, BUFFER, PAGE)
        lane.assert_reads(PAGE, content, MESSAGES)
        if lane.dma_read(LOGICAL, PAGE, MESSAGES).status != 0:
            assert "non canonical IOVA" in lane.machine.words
            raise Defect(lane.machine.words)


@finding
def test_intel_first_stage_pages_stay_announced(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    properties = {"scalable-mode": True, "fsts": True}
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties) as lane:
        iommu = ScalableIommu(lane.qtest, lane.frames, REQUESTER, "first")
        iommu.enable()
        iommu.map(LOGICAL, BUFFER, PAGE)
        iommu.registers.invalidate_all()  # announces what is there
        assert lane.mapped() == [(LOGICAL, PAGE, 3)]
        iommu.unmap(LOGICAL, PAGE)
        assert lane.dma_write(LOGICAL, 8, 1, MESSAGES).status != 0
        if lane.dma_write(LOGICAL, 8, 1).status == 0:
            raise Defect("the device writes to a page that was unmapped and invalidated")


@finding
def test_amd_invalidation_of_everything_misses_high_addresses(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    high = 1 << 63
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, AmdIommu)
        lane.iommu.enable()
        lane.iommu.map(high, BUFFER, PAGE)
        lane.iommu.table.clear(high, PAGE, PAGE)
        lane.iommu.invalidate_all_pages()
        assert lane.dma_write(high, 8, 1, MESSAGES).status != 0
        if lane.dma_write(high, 8, 1).status == 0:
            raise Defect("the device writes to a page that was unmapped and invalidated")


@finding
def test_virtio_all_of_memory_appears_between_two_domains(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    edu = ({"driver": "edu", "addr": "6"},)
    with open_lane("virtio", qemu, vdxgk_run.path, devices=edu) as lane:
        iommu = lane.iommu
        assert isinstance(iommu, VirtioIommu)
        iommu.enable()
        # A second function keeps the second domain alive.
        iommu.attach(2, REQUESTER + 8)
        table = lane.adapter.device.dma
        announced: list[tuple[int, int]] = []
        original = table.map

        def note(
            iova: int, size: int, access: Announced, descriptor: int | None = None, offset: int = 0
        ) -> object:
            announced.append((iova, size))
            return original(iova, size, access, descriptor, offset)

        monkeypatch.setattr(table, "map", note)
        iommu.attach(2, REQUESTER)
        assert lane.mapped() == []
        if any(iova <= BUFFER < iova + size for iova, size in announced):
            raise Defect(f"announced on the way: {[(hex(i), hex(s)) for i, s in announced]}")
        assert announced == []


@finding
def test_virtio_a_mapping_smaller_than_a_page_is_accepted(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("virtio", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        try:
            lane.iommu.map(LOGICAL, BUFFER, 0x200)
        except RequestFailed:
            return
        assert lane.mapped() == [(LOGICAL, 0x200, 3)]
        raise Defect("512 bytes, with a page size mask of 4 KiB")


@finding
def test_intel_a_write_only_page_can_be_read(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.iommu.map(LOGICAL, BUFFER, PAGE, Access.WRITE)
        assert lane.dma_read(LOGICAL, PAGE, MESSAGES).status != 0
        completion = lane.dma_read(LOGICAL, PAGE)
        if completion.status == 0:
            assert completion.result == zlib.crc32(content)
            raise Defect(f"announced: {ranges(lane)}")


@finding
def test_intel_an_interrupt_in_the_old_format_is_not_blocked(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    chosen = 0x77
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, IntelIommu)
        lane.iommu.enable()
        remapping = InterruptRemapping(lane.qtest, lane.frames, lane.iommu.registers)
        remapping.enable()
        assert not lane.iommu.registers.load(GSTS, 4) & COMPATIBILITY_FORMAT
        msix = Msix(lane.qtest, lane.gpu.function)
        msix.enable()
        msix.set(layout.VECTOR_ENGINE, COMPATIBLE, chosen)
        lane.gpu.want_interrupt(layout.RING_COMMAND_COMPLETIONS)
        assert lane.gpu.engine(op=layout.ENGINE_NOP).status == 0

        logged = False

        def seen() -> bool:
            nonlocal logged
            logged = logged or bool(lane.iommu.faults())
            return logged or chosen in lane.machine.requested_vectors()

        lane.qtest.wait_for(seen, "the interrupt arrives, or is logged as refused")
        if not logged:
            raise Defect(f"the processor has vector {chosen:#x}, which the device chose")
