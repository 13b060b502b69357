"""Wrong memory."""

from __future__ import annotations

import zlib

import pytest

from pyvfio_user import MessageDmaError
from tests.qtest.findings.finding import LOGICAL, MESSAGES, OTHER, Defect, finding
from tests.qtest.lane import (
    BUFFER,
    open_lane,
    pattern,
)
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import PAGE
from vdxgk_lab.run_directory import RunDirectory


@finding
def test_a_file_backend_with_an_offset_is_announced_without_it(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    offset = 1 << 20
    memory = {
        **{"qom-type": "memory-backend-file", "mem-path": str(vdxgk_run.path / "ram")},
        **{"share": True, "offset": offset},
    }
    with open_lane("intel", qemu, vdxgk_run.path, memory=memory) as lane:
        content = lane.buffer(BUFFER, PAGE, 1)
        before = lane.buffer(BUFFER - offset, PAGE, 2)
        lane.assert_reads(BUFFER, content, MESSAGES)
        crc = lane.dma_read(BUFFER, PAGE).result
        if crc == zlib.crc32(before):
            raise Defect("the device reads what lies 1 MiB below")
        assert crc == zlib.crc32(content)


@finding
def test_private_memory_is_announced_with_a_descriptor(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    memory = {"qom-type": "memory-backend-memfd", "share": False}
    with open_lane("intel", qemu, vdxgk_run.path, memory=memory) as lane:
        lane.buffer(BUFFER, PAGE, 1)
        mapping = lane.adapter.device.dma.find(BUFFER)
        assert mapping is not None
        if mapping.backing is not None:
            assert lane.dma_read(BUFFER, PAGE).result == zlib.crc32(bytes(PAGE))
            raise Defect("the descriptor leads to zeros, not to the guest's memory")


@finding
def test_a_refused_message_stores_what_lies_behind_the_gap(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.buffer(BUFFER, PAGE, 1)
        behind = lane.buffer(OTHER, PAGE, 2)
        lane.iommu.map(LOGICAL, BUFFER, PAGE)
        lane.iommu.map(LOGICAL + 2 * PAGE, OTHER, PAGE)
        with pytest.raises(MessageDmaError):
            lane.adapter.device.message_dma.write(LOGICAL, pattern(3, 3 * PAGE))
        if lane.qtest.read(OTHER, PAGE) != behind:
            assert lane.qtest.read(OTHER, PAGE) == pattern(3, 3 * PAGE)[2 * PAGE :]
            raise Defect("one refused message, two pages written")
