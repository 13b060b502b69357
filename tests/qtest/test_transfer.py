"""Transfers: sizes, neighbours, gaps, edges of the address space, bus mastering."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.qtest.lane import BUFFER, REQUESTER, WIDE, Kind, Lane, open_lane, pattern
from vdxgk.channel import layout
from vdxgk.engine import Engine
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import LARGE, PAGE
from vdxgk_lab.qtest.pci import COMMAND_BUS_MASTER, COMMAND_MEMORY
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000
SIZES = (1, 1024, 1025, 1024000, 1024001)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_off_by_one_from_the_page(lane: Lane, path: int, size: int) -> None:
    length = (size + PAGE - 1) // PAGE * PAGE
    content = lane.buffer(BUFFER, length, 1)
    lane.iommu.map(LOGICAL, BUFFER, length)
    lane.assert_reads(LOGICAL, content[:size], path)
    lane.assert_writes(LOGICAL, size, 2, path)
    assert lane.qtest.read(BUFFER, length) == pattern(2, length)[:size] + content[size:]


@pytest.mark.parametrize("size", SIZES)
def test_copies_between_scattered_lists(lane: Lane, path: int, size: int) -> None:
    """Source pages in reverse order, destination pages with holes between; both start in a page."""
    start = 0x123
    pages = (start + size + PAGE - 1) // PAGE
    content = pattern(1, pages * PAGE)
    source, destination = LOGICAL, LOGICAL + 2 * LARGE
    sources = [BUFFER + (pages - index) * PAGE for index in range(pages)]
    destinations = [BUFFER + LARGE + 2 * index * PAGE for index in range(pages)]
    for index in range(pages):
        lane.qtest.write(sources[index], content[index * PAGE : (index + 1) * PAGE])
        lane.qtest.fill(destinations[index], 2 * PAGE, 0xA5)
        lane.canaries.append((destinations[index] + PAGE, PAGE))
        lane.iommu.map(source + index * PAGE, sources[index], PAGE)
        lane.iommu.map(destination + index * PAGE, destinations[index], PAGE)
    completion = lane.gpu.engine(
        op=layout.ENGINE_COPY,
        flags=path,
        source=source + start,
        destination=destination + start,
        size=size,
    )
    assert (completion.status, completion.done) == (0, size)
    arrived = b"".join(lane.qtest.read(page, PAGE) for page in destinations)
    assert arrived[start : start + size] == content[start : start + size]
    assert set(arrived[:start] + arrived[start + size :]) == {0xA5}


def test_zero_length_touches_and_needs_nothing(lane: Lane, path: int) -> None:
    for completion in (lane.dma_read(LOGICAL, 0, path), lane.dma_write(LOGICAL, 0, 1, path)):
        assert (completion.status, completion.fault, completion.done) == (0, 0, 0)
    assert lane.gpu.read(layout.REG_FAULT_COUNT) == 0


def test_across_a_gap_nothing_behind_it_is_touched(lane: Lane, path: int) -> None:
    """Two mapped pages, a gap up to the next message of the engine, one mapped page."""
    gap_end = Engine.STEPS[layout.ENGINE_MESSAGES]
    size = gap_end + PAGE
    before = lane.buffer(BUFFER, 2 * PAGE, 1)
    behind = lane.buffer(BUFFER + LARGE, PAGE, 3)
    lane.iommu.map(LOGICAL, BUFFER, 2 * PAGE)
    lane.iommu.map(LOGICAL + gap_end, BUFFER + LARGE, PAGE)
    completion = lane.dma_write(LOGICAL, size, 9, path)
    assert completion.status != 0
    # The descriptor path names the byte, the message path the message.
    assert completion.fault_address == LOGICAL + (0 if path else 2 * PAGE)
    assert completion.done == (0 if path else 2 * PAGE)
    arrived, wanted = lane.qtest.read(BUFFER, 2 * PAGE), pattern(9, size)
    assert arrived[: completion.done] == wanted[: completion.done]
    for start in range(0, 2 * PAGE, 8):  # whole old words or whole new ones
        old_and_new = (before[start : start + 8], wanted[start : start + 8])
        assert arrived[start : start + 8] in old_and_new
    assert lane.qtest.read(BUFFER + LARGE, PAGE) == behind
    # The opposite: with the gap mapped, all of it arrives.
    lane.iommu.map(LOGICAL + 2 * PAGE, BUFFER + 2 * LARGE, gap_end - 2 * PAGE)
    lane.assert_writes(LOGICAL, size, 9, path)
    assert lane.qtest.read(BUFFER + LARGE, PAGE) == wanted[gap_end:]


def test_a_read_across_a_gap_fails(lane: Lane, path: int) -> None:
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.iommu.map(LOGICAL + 2 * PAGE, BUFFER, PAGE)
    completion = lane.dma_read(LOGICAL, 3 * PAGE, path)
    assert completion.status != 0
    assert completion.fault_address == LOGICAL + (0 if path else PAGE)


def test_wrapping_at_2_64_is_a_fault(lane: Lane, path: int) -> None:
    """With page 0 mapped, a wrapping access would succeed in part."""
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(0, BUFFER, PAGE)
    lane.assert_reads(0, content, path)
    completion = lane.dma_write((1 << 64) - 8, 16, 2, path)
    assert completion.status != 0
    reason = layout.FAULT_VALID | layout.FAULT_WRITE | layout.FAULT_ADDRESS_WIDTH
    assert (completion.fault, completion.done) == (reason, 0)
    assert lane.qtest.read(BUFFER, PAGE) == content


@pytest.mark.parametrize("bits", [28, 32])
def test_beyond_the_address_width_nothing_leaves_the_device(
    kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory, path: int, bits: int
) -> None:
    options = replace(WIDE, dma_bits=bits)
    limit = 1 << bits
    with open_lane(kind, qemu, vdxgk_run.path, options=options) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, 2 * PAGE, 1)
        lane.iommu.map(limit - PAGE, BUFFER, 2 * PAGE)
        lane.assert_reads(limit - PAGE, content[:PAGE], path)
        for address in (limit, limit - 8):
            inside = limit - address
            completion = lane.dma_write(address, 16, 2, path)
            assert completion.fault & layout.FAULT_REASON_MASK == layout.FAULT_ADDRESS_WIDTH
            assert (completion.fault_address, completion.done) == (limit, inside)
            lane.assert_refused(True, limit, layout.FAULT_ADDRESS_WIDTH, path, translated=False)
        changed = content[: PAGE - 8] + pattern(2, 8) + content[PAGE:]
        assert lane.qtest.read(BUFFER, 2 * PAGE) == changed
    # The opposite: a wider device reaches both pages.
    with open_lane(kind, qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.iommu.map(limit - PAGE, BUFFER, 2 * PAGE)
        lane.assert_writes(limit - 8, 16, 2, path)


def test_bus_mastering_off(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.gpu.function.command(COMMAND_MEMORY)
    reason = layout.FAULT_BUS_MASTER_OFF
    completion = lane.dma_write(LOGICAL, 8, 2, path)
    assert completion.fault & layout.FAULT_REASON_MASK == reason
    lane.assert_refused(True, LOGICAL, reason, path, translated=False)
    assert lane.qtest.read(BUFFER, PAGE) == content
    # The opposite: with it on, the same write succeeds.
    lane.gpu.function.command(COMMAND_MEMORY | COMMAND_BUS_MASTER)
    lane.assert_writes(LOGICAL, 8, 2, path)
    assert lane.qtest.read(BUFFER, 8) == pattern(2, 8)


def test_requester_id_is_the_functions(lane: Lane) -> None:
    """The IOMMU names our function, so that its tables were those that were walked."""
    lane.dma_read(LOGICAL, 8, layout.ENGINE_MESSAGES)
    assert {fault.requester for fault in lane.iommu.faults()} == {REQUESTER}
