"""What only AMD-Vi has: commands for ranges, device table entries, 64-bit addresses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.qtest.lane import BUFFER, REQUESTER, Lane, open_lane
from vdxgk.channel import layout
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.amdvi import PAGE_FAULT, AmdIommu
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000


@pytest.fixture
def amd(qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[tuple[Lane, AmdIommu]]:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, AmdIommu)
        lane.iommu.enable()
        yield lane, lane.iommu


@pytest.mark.parametrize("pages", [1, 2, 8, 512, 513], ids=lambda pages: f"{pages} pages")
def test_one_command_for_a_range(amd: tuple[Lane, AmdIommu], path: int, pages: int) -> None:
    lane, iommu = amd
    size = pages * PAGE
    content = lane.buffer(BUFFER, size, 1)
    iommu.table.set(LOGICAL, BUFFER, size, Access.BOTH, PAGE)
    iommu.invalidate(LOGICAL, size)
    lane.assert_reads(LOGICAL, content, path)
    iommu.table.clear(LOGICAL, size, PAGE)
    iommu.invalidate(LOGICAL, size)
    assert lane.mapped() == []
    lane.assert_read_refused(LOGICAL + size - PAGE, path)


def test_one_command_for_everything(amd: tuple[Lane, AmdIommu], path: int) -> None:
    lane, iommu = amd
    content = lane.buffer(BUFFER, PAGE, 1)
    everywhere = (0, LOGICAL, 1 << 47)  # higher: docs/qemu-findings.md
    for logical in everywhere:
        iommu.table.set(logical, BUFFER, PAGE, Access.BOTH, PAGE)
    iommu.invalidate_all_pages()
    for logical in everywhere:
        lane.assert_reads(logical, content, path)
    for logical in everywhere:
        iommu.table.clear(logical, PAGE, PAGE)
    iommu.invalidate_all_pages()
    assert lane.mapped() == []


def test_the_event_log_names_the_function(amd: tuple[Lane, AmdIommu]) -> None:
    lane, iommu = amd
    assert iommu.events() == []
    lane.dma_write(LOGICAL, 8, 1, layout.ENGINE_MESSAGES)
    events = iommu.events()
    assert {(event.code, event.low & 0xFFFF) for event in events} == {(PAGE_FAULT, REQUESTER)}
    # The opposite: what is mapped leaves no event.
    iommu.map(LOGICAL, BUFFER, LARGE, leaf=LARGE)
    lane.assert_writes(LOGICAL, 8, 1, layout.ENGINE_MESSAGES)
    assert iommu.events() == []
