"""Protection, each case with its opposite: without the protection the access succeeds."""

from __future__ import annotations

import pytest

from tests.qtest.lane import BUFFER, Lane, pattern
from vdxgk.channel import layout
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access

LOGICAL = 0x2_2340_0000
SECRET = 0x1_6000_0000  # real memory, above 4 GiB


@pytest.mark.parametrize("leaf", [PAGE, LARGE], ids=["4 KiB", "2 MiB"])
def test_a_read_only_window(lane: Lane, path: int, leaf: int) -> None:
    content = lane.buffer(BUFFER + PAGE, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, LARGE, Access.READ, leaf=leaf)
    logical = LOGICAL + PAGE
    # The write comes first: docs/qemu-findings.md, "A refused write leaves no fault".
    lane.assert_write_refused(logical, path, reason=layout.FAULT_FORBIDDEN)
    lane.assert_reads(logical, content, path)
    assert lane.qtest.read(BUFFER + PAGE, PAGE) == content
    # The opposite: writable, the same write succeeds.
    lane.iommu.unmap(LOGICAL, LARGE, leaf=leaf)
    lane.iommu.map(LOGICAL, BUFFER, LARGE, Access.BOTH, leaf=leaf)
    lane.assert_writes(logical, 8, 0xDEAD, path)
    assert lane.qtest.read(BUFFER + PAGE, 8) == pattern(0xDEAD, 8)


def test_a_write_that_ends_in_a_read_only_page(lane: Lane, path: int) -> None:
    lane.buffer(BUFFER, PAGE, 1)
    protected = lane.buffer(BUFFER + 4 * PAGE, PAGE, 2)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.iommu.map(LOGICAL + PAGE, BUFFER + 4 * PAGE, PAGE, Access.READ)
    assert lane.dma_write(LOGICAL, 2 * PAGE, 3, path).status != 0
    assert lane.qtest.read(BUFFER + 4 * PAGE, PAGE) == protected
    lane.iommu.unmap(LOGICAL + PAGE, PAGE)
    lane.iommu.map(LOGICAL + PAGE, BUFFER + 4 * PAGE, PAGE)
    lane.assert_writes(LOGICAL, 2 * PAGE, 3, path)
    assert lane.qtest.read(BUFFER + 4 * PAGE, PAGE) == pattern(3, 2 * PAGE)[PAGE:]


def test_two_logical_pages_on_one_physical_page(lane: Lane, path: int) -> None:
    """They are neighbours, but not in memory: a transfer over both must not run on."""
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.iommu.map(LOGICAL + PAGE, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content + content, path)
    lane.assert_writes(LOGICAL, 2 * PAGE, 7, path)
    # The second half was written last; the canary behind the page is checked at the end.
    assert lane.qtest.read(BUFFER, PAGE) == pattern(7, 2 * PAGE)[PAGE:]


def test_one_physical_page_with_two_permissions(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.iommu.map(LOGICAL + 8 * PAGE, BUFFER, PAGE, Access.READ)
    lane.assert_write_refused(LOGICAL + 8 * PAGE, path, reason=layout.FAULT_FORBIDDEN)
    lane.assert_reads(LOGICAL + 8 * PAGE, content, path)
    lane.assert_writes(LOGICAL, 8, 2, path)
    lane.iommu.unmap(LOGICAL, PAGE)
    lane.assert_write_refused(LOGICAL, path)
    lane.assert_read_refused(LOGICAL, path)
    lane.assert_reads(LOGICAL + 8 * PAGE, pattern(2, 8) + content[8:], path)


def test_real_memory_that_was_granted_to_nobody(lane: Lane, path: int) -> None:
    """The target exists and holds our data, so that a success would be visible."""
    secret = lane.buffer(SECRET, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_read_refused(SECRET, path)
    lane.assert_write_refused(SECRET, path)
    assert lane.qtest.read(SECRET, PAGE) == secret
    # The opposite: with translation off, the very same accesses succeed.
    lane.iommu.disable()
    lane.assert_reads(SECRET, secret, path)
    lane.assert_writes(SECRET, 8, 5, path)
    assert lane.qtest.read(SECRET, 8) == pattern(5, 8)


def test_canaries_survive_everything_but_an_overrun(lane: Lane, path: int) -> None:
    lane.buffer(BUFFER, 4 * PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, 4 * PAGE)
    lane.assert_writes(LOGICAL, 4 * PAGE, 2, path)
    assert lane.dma_write(LOGICAL, 4 * PAGE + 8, 3, path).status != 0
    assert lane.dma_write(LOGICAL - 8, 16, 3, path).status != 0
    lane.assert_canaries()
    # The opposite: a list that is one page too long lets the overrun through.
    lane.iommu.map(LOGICAL + 4 * PAGE, BUFFER + 4 * PAGE, PAGE)
    lane.assert_writes(LOGICAL, 4 * PAGE + 8, 3, path)
    with pytest.raises(AssertionError, match=hex(BUFFER + 4 * PAGE)):
        lane.assert_canaries()
    lane.canaries.clear()


def test_the_iommus_own_tables_are_out_of_reach(lane: Lane, path: int) -> None:
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    tables = 16 << 20  # the first page that the driver took
    before = lane.qtest.read(tables, PAGE)
    assert any(before)
    lane.assert_write_refused(tables, path)
    assert lane.qtest.read(tables, PAGE) == before
