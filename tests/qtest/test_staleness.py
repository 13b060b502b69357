"""What a translation that was taken away is still good for: nothing, once the guest is told so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.qtest.lane import BUFFER, Lane, pattern, with_tables
from vdxgk.channel import layout
from vdxgk.engine import Engine
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access
from vdxgk_lab.qtest.page_table import TableIommu

LIMIT = 60.0
"""Seconds after which a test has failed."""
LOGICAL = 0x2_2340_0000
OTHER = BUFFER + 8 * LARGE


def test_access_after_unmap(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_writes(LOGICAL, PAGE, 2, path)
    lane.qtest.write(BUFFER, content)
    lane.iommu.unmap(LOGICAL, PAGE)
    lane.assert_write_refused(LOGICAL, path)
    lane.assert_read_refused(LOGICAL, path)
    assert lane.qtest.read(BUFFER, PAGE) == content
    # The opposite: mapped again, the same write succeeds.
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_writes(LOGICAL, PAGE, 2, path)
    assert lane.qtest.read(BUFFER, PAGE) == pattern(2, PAGE)


@with_tables
def test_without_invalidation_the_old_translation_may_be_used(
    lane: Lane, table_iommu: TableIommu, path: int
) -> None:
    """Both paths still hit what the tables no longer hold: this is what invalidation is for."""
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content, path)
    table_iommu.table.clear(LOGICAL, PAGE, PAGE)
    lane.assert_reads(LOGICAL, content, path)
    # The opposite of both: once it is told, neither does.
    table_iommu.invalidate(LOGICAL, PAGE)
    lane.assert_read_refused(LOGICAL, path)


@with_tables
def test_without_invalidation_a_retargeted_page_is_the_old_one(
    lane: Lane, table_iommu: TableIommu, path: int
) -> None:
    first = lane.buffer(BUFFER, PAGE, 1)
    second = lane.buffer(OTHER, PAGE, 2)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, first, path)
    table_iommu.table.clear(LOGICAL, PAGE, PAGE)
    table_iommu.table.set(LOGICAL, OTHER, PAGE, Access.BOTH, PAGE)
    lane.assert_reads(LOGICAL, first, path)
    table_iommu.invalidate(LOGICAL, PAGE)
    lane.assert_reads(LOGICAL, second, path)


@with_tables
def test_invalidation_of_other_pages_is_not_enough(lane: Lane, table_iommu: TableIommu) -> None:
    """By descriptors: what an IOMMU caches for messages it may forget whenever it likes."""
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content)
    table_iommu.table.clear(LOGICAL, PAGE, PAGE)
    table_iommu.invalidate(LOGICAL + LARGE, PAGE)
    lane.assert_reads(LOGICAL, content)
    table_iommu.invalidate(LOGICAL, PAGE)
    lane.assert_read_refused(LOGICAL)


def test_unmap_between_two_steps_of_a_transfer(
    lane: Lane, path: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the unmap has returned, the transfer under way changes nothing any more."""
    step, size = Engine.STEPS[path], 3 * LARGE
    device = lane.adapter.device
    steps = 0
    reached, unmapped = threading.Event(), threading.Event()

    def stop_before_the_third(call: Callable[..., object], *arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 3:
            reached.set()
            assert unmapped.wait(LIMIT)
        return call(*arguments)

    if path:
        monkeypatch.setattr(
            device.message_dma, "write", partial(stop_before_the_third, device.message_dma.write)
        )
    else:
        monkeypatch.setattr(device.dma, "access", partial(stop_before_the_third, device.dma.access))
    before = lane.buffer(BUFFER, size, 1)
    lane.iommu.map(LOGICAL, BUFFER, size, leaf=LARGE)
    lane.gpu.submit(
        op=layout.ENGINE_FILL,
        flags=path,
        destination=LOGICAL,
        size=size,
        value=2 << 32,
        step=1,
    )
    assert reached.wait(LIMIT)
    lane.iommu.unmap(LOGICAL, size, leaf=LARGE)
    unmapped.set()
    completion = lane.gpu.completion()
    assert (completion.fault_address, completion.done) == (LOGICAL + 2 * step, 2 * step)
    reason = layout.FAULT_REFUSED if path else layout.FAULT_UNMAPPED
    # Of a long message an IOMMU may log every word.
    assert bool(lane.iommu.faults()) == bool(path)
    lane.assert_refused(True, LOGICAL + 2 * step, reason, path, translated=False)
    changed = pattern(2, 2 * step) + before[2 * step :]
    assert lane.qtest.read(BUFFER, size) == changed
    # The opposite: without the unmap, all of it is changed.
    steps = 3
    lane.iommu.map(LOGICAL, BUFFER, size, leaf=LARGE)
    lane.assert_writes(LOGICAL, size, 2, path)
    assert lane.qtest.read(BUFFER, size) == pattern(2, size)
