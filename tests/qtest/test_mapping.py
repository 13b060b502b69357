"""Map and unmap: shapes, and what the device then reaches."""

from __future__ import annotations

import pytest

from tests.qtest.lane import BUFFER, Lane, with_tables
from vdxgk.channel import layout
from vdxgk_lab.qtest.iommu import HUGE, LARGE, PAGE
from vdxgk_lab.qtest.page_table import TableIommu

LOGICAL = 0x2_2340_0000
FAR = 0x1_4000_0000  # a physical address above 4 GiB


def test_before_translation_the_device_reaches_all_of_memory(idle_lane: Lane, path: int) -> None:
    """The opposite of every case below."""
    content = idle_lane.buffer(BUFFER, PAGE, 1)
    idle_lane.assert_reads(BUFFER, content, path)
    idle_lane.assert_writes(BUFFER, PAGE, 2, path)
    content = idle_lane.buffer(FAR, PAGE, 3)
    idle_lane.assert_reads(FAR, content, path)


def test_translation_on_takes_everything_away(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    assert lane.mapped() == []
    lane.assert_read_refused(BUFFER, path)
    lane.assert_write_refused(BUFFER, path)
    assert lane.qtest.read(BUFFER, PAGE) == content


def test_translation_off_gives_everything_back(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.disable()
    lane.assert_reads(BUFFER, content, path)


def test_one_page(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    assert lane.mapped() == [(LOGICAL, PAGE, 3)]
    lane.assert_reads(LOGICAL, content, path)
    lane.assert_writes(LOGICAL, PAGE, 2, path)
    lane.assert_read_refused(LOGICAL + PAGE, path)
    lane.assert_write_refused(LOGICAL - PAGE, path)
    lane.assert_read_refused(BUFFER, path)  # its own address is no logical address


def test_many_scattered_pages(lane: Lane, path: int) -> None:
    count = 64
    content = b""
    for index in range(count):
        # Physical order is the reverse, and no two are neighbours.
        physical = FAR + (count - index) * 3 * PAGE
        content += lane.buffer(physical, PAGE, 1 + index)
        lane.iommu.map(LOGICAL + index * PAGE, physical, PAGE)
    assert sum(size for _, size, _ in lane.mapped()) == count * PAGE
    lane.assert_reads(LOGICAL, content, path)


@pytest.mark.parametrize("leaf", [LARGE, HUGE], ids=["2 MiB", "1 GiB"])
def test_a_large_leaf(lane: Lane, path: int, leaf: int) -> None:
    logical, physical = 2 * HUGE, HUGE
    lane.iommu.map(logical, physical, leaf, leaf=leaf)
    assert lane.mapped() == [(logical, leaf, 3)]
    for offset in (0, leaf // 2, leaf - 2 * PAGE):
        content = lane.buffer(physical + offset + PAGE, PAGE, 1 + offset)
        lane.assert_reads(logical + offset + PAGE, content, path)
    lane.canaries.clear()  # the device may reach them
    lane.assert_read_refused(logical + leaf, path)
    lane.iommu.unmap(logical, leaf, leaf=leaf)
    assert lane.mapped() == []
    lane.assert_read_refused(logical, path)


def test_small_and_large_leaves_in_one_list(lane: Lane, path: int) -> None:
    lane.iommu.map(LOGICAL, BUFFER, LARGE, leaf=LARGE)
    lane.iommu.map(LOGICAL + LARGE, FAR, PAGE)
    first = lane.buffer(BUFFER + LARGE - PAGE, PAGE, 1)
    second = lane.buffer(FAR, PAGE, 2)
    lane.canaries = lane.canaries[1:]  # the page before lies in the large leaf
    lane.assert_reads(LOGICAL + LARGE - PAGE, first + second, path)


def test_the_last_logical_address(lane: Lane, path: int) -> None:
    logical = lane.iommu.aperture_end + 1 - PAGE
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(logical, BUFFER, PAGE)
    lane.assert_reads(logical, content, path)
    lane.iommu.unmap(logical, PAGE)
    assert lane.mapped() == []
    lane.assert_read_refused(logical, path)


def test_unmap_of_nothing(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.iommu.unmap(LOGICAL + 16 * PAGE, 4 * PAGE)
    assert lane.mapped() == [(LOGICAL, PAGE, 3)]
    lane.assert_reads(LOGICAL, content, path)


def test_unmap_of_many_at_once(lane: Lane, path: int) -> None:
    for index in range(8):
        lane.iommu.map(LOGICAL + 2 * index * PAGE, BUFFER + index * PAGE, PAGE)
    assert len(lane.mapped()) == 8
    lane.iommu.unmap(LOGICAL, 16 * PAGE)
    assert lane.mapped() == []
    for index in range(8):
        lane.assert_read_refused(LOGICAL + 2 * index * PAGE, path)


def test_unmap_of_some_leaves_the_others(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, 4 * PAGE, 1)
    for index in range(4):
        lane.iommu.map(LOGICAL + index * PAGE, BUFFER + index * PAGE, PAGE)
    lane.iommu.unmap(LOGICAL + PAGE, PAGE)
    lane.assert_read_refused(LOGICAL + PAGE, path)
    lane.assert_reads(LOGICAL, content[:PAGE], path)
    lane.assert_reads(LOGICAL + 2 * PAGE, content[2 * PAGE :], path)


def test_a_range_mapped_again_elsewhere(lane: Lane, path: int) -> None:
    first = lane.buffer(BUFFER, PAGE, 1)
    second = lane.buffer(FAR, PAGE, 2)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, first, path)
    lane.iommu.unmap(LOGICAL, PAGE)
    lane.iommu.map(LOGICAL, FAR, PAGE)
    lane.assert_reads(LOGICAL, second, path)
    lane.assert_writes(LOGICAL, PAGE, 3, path)
    assert lane.qtest.read(BUFFER, PAGE) == first


@with_tables
def test_a_translation_replaced_without_an_unmap(
    lane: Lane, table_iommu: TableIommu, path: int
) -> None:
    """The announcements overlap or not, as the IOMMU likes: the device reaches the new page."""
    first = lane.buffer(BUFFER, PAGE, 1)
    second = lane.buffer(FAR, PAGE, 2)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, first, path)
    lane.iommu.map(LOGICAL, FAR, PAGE)
    lane.assert_reads(LOGICAL, second, path)
    lane.assert_writes(LOGICAL, PAGE, 3, path)
    assert lane.qtest.read(BUFFER, PAGE) == first


@with_tables
def test_a_directory_over_many_pages_cleared(
    lane: Lane, table_iommu: TableIommu, path: int
) -> None:
    for index in (0, 1, 7, 511):
        lane.iommu.map(LOGICAL + index * PAGE, BUFFER + index * PAGE, PAGE)
    neighbour = lane.buffer(FAR, PAGE, 1)
    lane.iommu.map(LOGICAL + LARGE, FAR, PAGE)
    if lane.kind == "amd":  # the pages first: docs/qemu-findings.md
        lane.iommu.unmap(LOGICAL, LARGE)
    lane.iommu.unmap(LOGICAL, LARGE, leaf=LARGE)
    assert lane.mapped() == [(LOGICAL + LARGE, PAGE, 3)]
    for index in (0, 1, 7, 511):
        lane.assert_read_refused(LOGICAL + index * PAGE, path)
    lane.assert_reads(LOGICAL + LARGE, neighbour, path)


@with_tables
def test_a_large_leaf_cut_into_small_ones(lane: Lane, table_iommu: TableIommu, path: int) -> None:
    """Unmapped first: without that, docs/qemu-findings.md."""
    content = lane.buffer(BUFFER + PAGE, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, LARGE, leaf=LARGE)
    lane.assert_reads(LOGICAL + PAGE, content, path)
    lane.iommu.unmap(LOGICAL, LARGE, leaf=LARGE)
    lane.iommu.map(LOGICAL + PAGE, BUFFER + PAGE, PAGE)
    assert lane.mapped() == [(LOGICAL + PAGE, PAGE, 3)]
    lane.assert_reads(LOGICAL + PAGE, content, path)
    lane.assert_read_refused(LOGICAL + 2 * PAGE, path)


def test_more_mappings_than_the_device_keeps(lane: Lane, path: int) -> None:
    """What does not fit is out of reach of descriptors, and nothing else is lost."""
    limit = 4
    lane.adapter.device.dma.max_mappings = limit
    content = b""
    for index in range(limit + 1):
        content += lane.buffer(BUFFER + 2 * index * PAGE, PAGE, index)
        lane.iommu.map(LOGICAL + 2 * index * PAGE, BUFFER + 2 * index * PAGE, PAGE)
    assert len(lane.mapped()) == limit
    for index in range(limit):
        page = content[index * PAGE : (index + 1) * PAGE]
        lane.assert_reads(LOGICAL + 2 * index * PAGE, page, path)
    last = LOGICAL + 2 * limit * PAGE
    if path:  # QEMU has it in its own tables
        lane.assert_reads(last, content[limit * PAGE :], path)
    else:
        lane.assert_read_refused(last)
    # The opposite: with room for it, it is within reach.
    lane.iommu.unmap(LOGICAL, PAGE)
    lane.iommu.unmap(last, PAGE)
    lane.iommu.map(last, BUFFER + 2 * limit * PAGE, PAGE)
    lane.assert_reads(last, content[limit * PAGE :], path)


@pytest.mark.parametrize("kind", ["amd"])
def test_the_last_page_of_all(lane: Lane, path: int) -> None:
    """It ends at 2^64; behind it nothing may be taken for the first page of memory."""
    last = (1 << 64) - PAGE
    content = lane.buffer(BUFFER, PAGE, 1)
    first = lane.buffer(FAR, PAGE, 2)
    lane.iommu.map(last, BUFFER, PAGE)
    lane.iommu.map(0, FAR, PAGE)
    assert lane.mapped() == [(0, PAGE, 3), (last, PAGE, 3)]
    lane.assert_reads(last, content, path)
    completion = lane.dma_write(last, 2 * PAGE, 3, path)
    assert completion.fault & layout.FAULT_REASON_MASK == layout.FAULT_ADDRESS_WIDTH
    assert lane.qtest.read(FAR, PAGE) == first
    lane.iommu.unmap(last, PAGE)
    assert lane.mapped() == [(0, PAGE, 3)]
