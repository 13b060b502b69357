"""Resets, and everything of one life that must not reach into the next."""

from __future__ import annotations

import struct
import time
import zlib

from tests.qtest.lane import (
    ADAPTER_SLOT,
    BUFFER,
    PLATFORMS,
    WIDE,
    Kind,
    Lane,
    captured_log,
    pattern,
    plug_in,
)
from tests.unit.vdxgk.raw_guest import serving
from tests.unit.vdxgk.world import mdl
from vdxgk.channel import layout
from vdxgk.describe import describe
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import LARGE, PAGE
from vdxgk_lab.qtest.machine import QtestConfig, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow
from vdxgk_lab.run_directory import RunDirectory

LIMIT = 60.0
"""Seconds after which a test has failed."""
LOGICAL = 0x2_2340_0000
SIZE = 64 * PAGE
DONATION = 256 << 20
BOTH_ACCESSES = 3


def test_a_machine_reset_ends_translation_and_bus_mastering(lane: Lane, path: int) -> None:
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content, path)
    lane.machine.reset()
    assert not lane.adapter.device.config.bus_master_enabled
    assert LOGICAL not in [logical for logical, _, _ in lane.mapped()]
    # The next driver finds a device as after power-on, behind an IOMMU that is off.
    lane.gpu.start(MmioWindow())
    assert lane.gpu.read(layout.REG_FAULT_COUNT) == 0
    completion = lane.dma_read(LOGICAL, 8)
    assert completion.fault & layout.FAULT_REASON_MASK == layout.FAULT_UNMAPPED
    lane.assert_reads(BUFFER, content, path)


def test_three_lives_in_a_row(idle_lane: Lane, path: int) -> None:
    lane = idle_lane
    for life in range(3):
        logical = LOGICAL + life * PAGE
        content = lane.buffer(BUFFER, PAGE, life)
        lane.iommu.enable()
        lane.iommu.map(logical, BUFFER, PAGE)
        lane.assert_reads(logical, content, path)
        lane.assert_read_refused(BUFFER, path)
        lane.restart()


def test_a_machine_that_vanishes_in_mid_transfer(
    kind: Kind, qemu: QemuBinary, vdxgk_run: RunDirectory, path: int
) -> None:
    """Nothing unmapped, nothing said: the next machine finds the adapter as new."""
    with captured_log() as log, serving(vdxgk_run.path, WIDE) as (adapter, socket_path):
        config = QtestConfig((PLATFORMS[kind].device, vfio_user(socket_path, ADAPTER_SLOT)))
        for life in range(3):
            logical = LOGICAL + life * LARGE
            with plug_in(kind, config, qemu, vdxgk_run.path, adapter, log) as lane:
                assert adapter.connections == life + 1
                assert adapter.faults.count == 0
                assert lane.gpu.read(layout.REG_FAULT_COUNT) == 0
                lane.iommu.enable()
                assert lane.mapped() == []
                content = lane.buffer(BUFFER, PAGE, life)
                lane.iommu.map(logical, BUFFER, LARGE)
                lane.assert_reads(logical, content, path)
                lane.assert_read_refused(LOGICAL + (life + 1) * LARGE, path)
                lane.gpu.submit(op=layout.ENGINE_CRC32, flags=path, source=logical, size=LARGE)
                lane.machine.kill()
        # What was the guest's memory is given back, and not kept until somebody else comes.
        deadline = time.monotonic() + LIMIT
        while adapter.backend.ram.known:
            assert time.monotonic() < deadline
    assert adapter.connections == 3
    assert adapter.device.dma.mappings() == []


def test_faults_do_not_wear_out(lane: Lane, path: int) -> None:
    """The register keeps the first, the counter counts, events stop at a full ring."""
    count = layout.RING_ENTRIES + 10
    for index in range(count):
        assert lane.dma_write(LOGICAL + index * PAGE, 8, 1, path).status != 0
    assert lane.gpu.read(layout.REG_FAULT_COUNT) == count
    assert lane.gpu.read(layout.REG_FAULT_ADDRESS_LOW) == LOGICAL & 0xFFFF_FFFF
    addresses = [lane.gpu.event().parameters[0] for _ in range(layout.RING_ENTRIES)]
    assert addresses == [LOGICAL + index * PAGE for index in range(layout.RING_ENTRIES)]
    assert not lane.gpu.has_event()
    content = lane.buffer(BUFFER, PAGE, 1)
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    lane.assert_reads(LOGICAL, content, path)


def test_an_object_from_creation_to_destruction(idle_lane: Lane, path: int) -> None:
    """The whole ladder: object, list, mappings, commit, DMA both ways, free, refusal."""
    lane, gpu = idle_lane, idle_lane.gpu
    lane.iommu.enable()
    adapter = _start_adapter(lane)
    created = gpu.create_object(bytes(mdl(adapter, SIZE)), DONATION)
    assert created.run_count > 16
    adl, mappings = _allocate_list(lane, created.adapter_object)
    runs = [(physical, size) for _, physical, size in mappings]
    for logical, physical, size in mappings:
        lane.iommu.map(logical, physical, size)
    args = struct.pack("<2Q", created.adapter_object, adl)
    assert gpu.request(layout.OP_COMMIT_ADL, args).status == 0

    base = mappings[0][0]
    content = pattern(3, SIZE)
    position = 0
    for physical, size in runs:
        lane.qtest.write(physical, content[position : position + size])
        position += size
    assert lane.dma_read(base, SIZE, path).result == zlib.crc32(content)
    lane.assert_writes(base, SIZE, 4, path)
    assert b"".join(lane.qtest.read(*run) for run in runs) == pattern(4, SIZE)

    assert gpu.request(layout.OP_FREE_ADL, args).status == 0
    for logical, _, size in mappings:
        lane.iommu.unmap(logical, size)
    assert gpu.request(layout.OP_RELEASE_ADL, args).status == 0
    lane.assert_write_refused(base, path)
    assert b"".join(lane.qtest.read(*run) for run in runs) == pattern(4, SIZE)
    destroy = struct.pack("<2Q", created.object, created.adapter_object)
    assert gpu.request(layout.OP_DESTROY_OBJECT, destroy).status == 0
    assert describe(lane.adapter)["objects"] == []


def test_a_page_mapped_to_the_wrong_frame_is_not_committed(idle_lane: Lane) -> None:
    lane, gpu = idle_lane, idle_lane.gpu
    lane.iommu.enable()
    created = gpu.create_object(bytes(mdl(_start_adapter(lane), SIZE)), DONATION)
    adl, mappings = _allocate_list(lane, created.adapter_object)
    wrong = len(mappings) // 2
    for index, (logical, physical, size) in enumerate(mappings):
        lane.iommu.map(logical, BUFFER if index == wrong else physical, size)
    args = struct.pack("<2Q", created.adapter_object, adl)
    assert gpu.request(layout.OP_COMMIT_ADL, args).status != 0
    event = gpu.event()
    logical, physical, _ = mappings[wrong]
    assert event.type == layout.EVENT_REMAP_FAILURE
    assert list(event.parameters[:5]) == [adl, logical, physical, BUFFER, BOTH_ACCESSES]
    # The opposite: nothing but this check keeps the engine from the wrong page.
    lane.assert_reads(logical, lane.buffer(BUFFER, PAGE, 1))


def test_a_page_left_mapped_is_not_released(idle_lane: Lane) -> None:
    lane, gpu = idle_lane, idle_lane.gpu
    lane.iommu.enable()
    created = gpu.create_object(bytes(mdl(_start_adapter(lane), SIZE)), DONATION)
    adl, mappings = _allocate_list(lane, created.adapter_object)
    for mapping in mappings:
        lane.iommu.map(*mapping)
    args = struct.pack("<2Q", created.adapter_object, adl)
    assert gpu.request(layout.OP_COMMIT_ADL, args).status == 0
    assert gpu.request(layout.OP_FREE_ADL, args).status == 0
    for logical, _, size in mappings[1:]:
        lane.iommu.unmap(logical, size)
    assert gpu.request(layout.OP_RELEASE_ADL, args).status != 0
    event = gpu.event()
    assert (event.type, event.parameters[1]) == (layout.EVENT_REMAP_FAILURE, mappings[0][0])
    # The opposite: nothing but this check tells that the engine still reaches it.
    lane.assert_reads(mappings[0][0], lane.qtest.read(mappings[0][1], PAGE))


def _start_adapter(lane: Lane) -> int:
    """START_ADAPTER in logical mode; answers its handle."""
    probe = BUFFER
    lane.iommu.map(probe, probe, PAGE)
    lane.qtest.store(probe, 99, 8)
    args = layout.StartArgs(
        highest_visible=(1 << 32) - 1,
        iommu_caps=4,
        iommu=layout.IOMMU_TRANSLATED,
        highest_ram=(6 << 30) - 1,
        aperture_end=lane.iommu.aperture_end,
        probe_gpa=probe,
        probe_value=99,
    )
    completion = lane.gpu.request(layout.OP_START_ADAPTER, bytes(args), room=0)
    assert completion.status == 0, hex(completion.status)
    lane.iommu.unmap(probe, PAGE)
    return int(layout.StartResult.from_buffer_copy(completion.result).adapter)


def _allocate_list(lane: Lane, adapter_object: int) -> tuple[int, list[tuple[int, int, int]]]:
    """ALLOCATE_ADL; answers its handle and what to map where."""
    args = struct.pack("<4QQ", adapter_object, 0, SIZE, 2, 0)
    completion = lane.gpu.request(layout.OP_ALLOCATE_ADL, args)
    assert completion.status == 0, hex(completion.status)
    result = layout.AllocateAdlResult.from_buffer_copy(completion.result)
    words = lane.gpu.words(3 * result.mapping_count)
    return int(result.adl), list(zip(words[::3], words[1::3], words[2::3], strict=True))
