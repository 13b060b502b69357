"""Machines that look right and are not, seen safely.

`vdxgk run` and `vdxgk boot` refuse each of them before the guest starts;
this is why.
"""

from __future__ import annotations

import signal
import struct
import zlib

import pytest

from tests.qtest.lane import BUFFER, REQUESTER, Lane, open_lane, pattern
from vdxgk.channel import layout
from vdxgk.memory.ntstatus import NtStatus
from vdxgk_lab.errors import VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.iommu import PAGE
from vdxgk_lab.qtest.machine import SHARED_MEMORY
from vdxgk_lab.qtest.vtd_scalable import ScalableIommu, Stage
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000


@pytest.mark.parametrize(
    "properties",
    [{"caching-mode": False}, {"caching-mode": True, "snoop-control": True}],
    ids=["no caching mode", "snoop control"],
)
def test_qemu_ends_when_the_guest_turns_the_iommu_on(
    qemu: QemuBinary, vdxgk_run: RunDirectory, properties: dict[str, object]
) -> None:
    """The machine starts, the device works; then the guest's own driver ends it all."""
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties, mortal=True) as lane:
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.assert_reads(BUFFER, content)
        with pytest.raises(VmLost):
            lane.iommu.enable()
        assert lane.machine.exit_status() == -signal.SIGABRT
        assert "DMA mapping failed" in lane.machine.words
    # The opposite: with both as they should be, the same driver goes on.
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.assert_read_refused(BUFFER)


@pytest.mark.parametrize("stage", ["second", "first"])
def test_first_stage_translation_is_not_announced(
    qemu: QemuBinary, vdxgk_run: RunDirectory, stage: Stage
) -> None:
    """Without an error anywhere: descriptors reach nothing, messages reach everything."""
    properties = {"scalable-mode": True, "fsts": stage == "first"}
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties) as lane:
        iommu = ScalableIommu(lane.qtest, lane.frames, REQUESTER, stage)
        iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.assert_read_refused(LOGICAL)
        iommu.map(LOGICAL, BUFFER, PAGE)
        lane.assert_reads(LOGICAL, content, layout.ENGINE_MESSAGES)
        if stage == "first":
            assert lane.mapped() == []
            lane.assert_read_refused(LOGICAL)
            # It is the kind of invalidation that matters: this one no driver uses for a page.
            iommu.registers.invalidate_all()
            assert lane.mapped() == [(LOGICAL, PAGE, 3)]
        else:  # the opposite
            assert lane.mapped() == [(LOGICAL, PAGE, 3)]
            lane.assert_reads(LOGICAL, content)


@pytest.mark.parametrize("remap", [False, True], ids=["off", "on"])
def test_amd_without_dma_remapping_protects_nothing_from_descriptors(
    qemu: QemuBinary, vdxgk_run: RunDirectory, remap: bool
) -> None:
    """The guest believes that it is protected, and nothing tells it otherwise."""
    with open_lane("amd", qemu, vdxgk_run.path, iommu={"dma-remap": remap}) as lane:
        lane.iommu.enable()
        secret = lane.buffer(BUFFER, PAGE, 1)
        if remap:
            lane.assert_write_refused(BUFFER)
            assert lane.qtest.read(BUFFER, PAGE) == secret
        else:  # the opposite
            lane.assert_reads(BUFFER, secret)
            lane.assert_writes(BUFFER, PAGE, 2)
            assert lane.qtest.read(BUFFER, PAGE) == pattern(2, PAGE)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "private"])
def test_private_memory_reads_as_zeros_and_is_noticed_at_start(
    qemu: QemuBinary, vdxgk_run: RunDirectory, shared: bool
) -> None:
    memory = {**SHARED_MEMORY, "share": shared}
    with open_lane("intel", qemu, vdxgk_run.path, memory=memory) as lane:
        content = lane.buffer(BUFFER, PAGE, 1)
        assert lane.adapter.device.dma.find(BUFFER) is not None  # announced, with a descriptor
        completion = lane.dma_read(BUFFER, PAGE)
        assert completion.status == 0
        assert (completion.result == zlib.crc32(content)) == shared
        assert (completion.result == zlib.crc32(bytes(PAGE))) == (not shared)
        # Messages go through QEMU, which sees what the guest sees.
        lane.assert_reads(BUFFER, content, layout.ENGINE_MESSAGES)
        assert _start(lane) == (0 if shared else NtStatus.NOT_SUPPORTED)


def test_memory_without_a_descriptor_is_for_messages_only(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    memory = {"qom-type": "memory-backend-ram"}
    with open_lane("intel", qemu, vdxgk_run.path, memory=memory) as lane:
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.assert_read_refused(BUFFER, reason=layout.FAULT_INACCESSIBLE)
        lane.assert_reads(BUFFER, content, layout.ENGINE_MESSAGES)


def _start(lane: Lane) -> int:
    """START_ADAPTER with a probe in guest memory; answers its status."""
    probe = BUFFER + 16 * PAGE
    lane.qtest.write(probe, struct.pack("<Q", 99))
    args = layout.StartArgs(
        highest_visible=(1 << 40) - 1,
        highest_ram=(6 << 30) - 1,
        probe_gpa=probe,
        probe_value=99,
        mode=layout.MODE_PHYSICAL,
        iommu=layout.IOMMU_NONE,
    )
    return int(lane.gpu.request(layout.OP_START_ADAPTER, bytes(args), room=0).status)
