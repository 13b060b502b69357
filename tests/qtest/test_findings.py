"""Defects of QEMU, each as a reproducer; docs/qemu-findings.md tells the story.

A case raises Defect at the symptom and nowhere else, so that any other
failure is red.  Where QEMU is mended, the mark turns red too.  To see one:

    .venv/bin/python -m pytest tests/qtest/test_findings.py --runxfail -k NAME
"""

from __future__ import annotations

import signal
import socket
import threading
import zlib
from pathlib import Path

import pytest

from pyvfio_user import Access as Announced
from pyvfio_user import MessageDmaError, message_dma, version
from tests.qtest.lane import (
    ADAPTER_SLOT,
    BUFFER,
    REQUESTER,
    WIDE,
    Kind,
    Lane,
    open_lane,
    pattern,
)
from tests.unit.vdxgk.raw_guest import serving
from vdxgk.channel import layout
from vdxgk_lab.errors import VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qmp import Refused
from vdxgk_lab.qtest.amdvi import AmdIommu
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Access
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.virtio_iommu import RequestFailed, VirtioIommu
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.qtest.vtd_scalable import ScalableIommu
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x2_2340_0000
QUESTIONS = 100_000
"""How often something is asked before it counts as failed."""
OTHER = BUFFER + 8 * LARGE
MESSAGES = layout.ENGINE_MESSAGES


class Defect(Exception):  # noqa: N818
    """The symptom, exactly."""


finding = pytest.mark.xfail(raises=Defect, strict=True, reason="a defect of QEMU")


# ---- QEMU ends ---------------------------------------------------------------


@finding
@pytest.mark.parametrize("option", ["caching-mode", "snoop-control"])
def test_intel_abort_when_the_guest_enables_translation(
    qemu: QemuBinary, vdxgk_run: RunDirectory, option: str
) -> None:
    properties = {"caching-mode": option != "caching-mode", "snoop-control": True}
    if option == "caching-mode":
        del properties["snoop-control"]
    with open_lane("intel", qemu, vdxgk_run.path, iommu=properties, mortal=True) as lane:
        try:
            lane.iommu.enable()
        except VmLost as lost:
            assert lane.machine.exit_status() == -signal.SIGABRT
            assert "vfio: DMA mapping failed, unable to continue" in lane.machine.words
            raise Defect(lane.machine.words) from lost


@finding
def test_amd_abort_on_invalidation_of_a_cleared_directory(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("amd", qemu, vdxgk_run.path, mortal=True) as lane:
        lane.iommu.enable()
        for index in range(4):
            lane.iommu.map(LOGICAL + index * PAGE, BUFFER, PAGE)
        try:
            lane.iommu.unmap(LOGICAL, LARGE, leaf=LARGE)
        except VmLost as lost:
            assert lane.machine.exit_status() == -signal.SIGABRT
            assert "amdvi_notify_iommu: Assertion" in lane.machine.words
            raise Defect(lane.machine.words) from lost


@finding
def test_abort_when_a_server_goes_with_a_request_unread(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    path = str(vdxgk_run.path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def go_at_once() -> None:
            client, _ = listener.accept()
            with client:
                assert client.recv(1)  # and no more: Linux then resets the connection

        server = threading.Thread(target=go_at_once)
        server.start()
        machine = QtestMachine(QtestConfig((vfio_user(path, ADAPTER_SLOT),)), qemu, vdxgk_run.path)
        with pytest.raises(VmLost), machine:
            pytest.fail("it started")
        server.join()
    assert machine.exit_status() in (1, -signal.SIGABRT)
    if machine.exit_status() != 1:
        assert "error_setv: Assertion" in machine.words
        raise Defect(machine.words)


# ---- Protection that is not there ------------------------------------------------


@finding
def test_intel_a_split_large_page_stays_announced(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        iommu = _intel(lane)
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
            raise Defect(f"still announced: {_ranges(lane)}")


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
        iommu = _virtio(lane)
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
            raise Defect(f"announced: {_ranges(lane)}")


# ---- Wrong memory ----------------------------------------------------------------


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


# ---- Faults that are not logged, or not well ------------------------------------------


@finding
def test_intel_a_refused_write_leaves_no_fault_once_the_page_was_read(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)
        lane.iommu.map(LOGICAL, BUFFER, PAGE, Access.READ)
        assert lane.dma_write(LOGICAL, 8, 2, MESSAGES).status != 0
        assert len(lane.iommu.faults()) == 1  # so it is logged, as long as nothing is cached
        lane.assert_reads(LOGICAL, content, MESSAGES)
        assert lane.dma_write(LOGICAL, 8, 2, MESSAGES).status != 0
        if lane.iommu.faults() == []:
            raise Defect("the write was refused, and no fault was recorded")


@finding
def test_amd_page_fault_events_hold_no_address(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        fault = lane.iommu.faults()[0]
        if fault.address == 0:
            raise Defect("IO_PAGE_FAULT at address 0")
        assert fault.address // PAGE == LOGICAL // PAGE


@finding
def test_amd_page_fault_events_of_writes_look_like_reads(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        if not lane.iommu.faults()[0].write:
            raise Defect("IO_PAGE_FAULT with RW=0 for a write")


@finding
@pytest.mark.parametrize("kind", ["virtio", "amd"])
def test_one_refused_access_is_reported_twice(
    qemu: QemuBinary, vdxgk_run: RunDirectory, kind: Kind
) -> None:
    with open_lane(kind, qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        faults = lane.iommu.faults()
        if len(faults) == 2:
            raise Defect(f"{faults}")
        assert len(faults) == 1


@finding
def test_virtio_a_fault_does_not_say_read_or_write(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("virtio", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        lane.iommu.map(LOGICAL + PAGE, BUFFER, PAGE, Access.READ)
        lane.dma_write(LOGICAL + PAGE, 8, 1, MESSAGES)
        assert lane.iommu.faults()[0].write  # it does, of a mapping that forbids the write
        lane.dma_write(LOGICAL, 8, 1, MESSAGES)
        if lane.iommu.faults()[0].write is None:
            raise Defect("neither VIRTIO_IOMMU_FAULT_F_READ nor _WRITE")


# ---- The vfio-user client ------------------------------------------------------------


@finding
def test_a_long_read_by_message_breaks_the_connection(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 512 << 10  # QEMU offers max_data_xfer_size 1 MiB
    monkeypatch.setattr(version, "MAX_DATA_XFER", 1 << 20)
    monkeypatch.setattr(message_dma, "CHUNK", 1 << 20)
    monkeypatch.setattr(message_dma, "ANSWER_LIMIT", 3.0)
    with open_lane("intel", qemu, vdxgk_run.path, mortal=True) as lane:
        content = lane.buffer(BUFFER, size, 1)
        short = 128 << 10
        assert lane.adapter.device.message_dma.read(BUFFER, short) == content[:short]
        try:
            assert lane.adapter.device.message_dma.read(BUFFER, size) == content
        except MessageDmaError as error:
            raise Defect(f"no answer: {error}") from error
        finally:
            lane.machine.kill()


@finding
def test_a_long_version_reply_is_refused(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = version.Capabilities.encode

    def padded(own: version.Capabilities, keys: frozenset[str]) -> bytes:
        # White space between JSON tokens means nothing.
        return encode(own, keys).replace(b"{", b"{" + b" " * 150)

    monkeypatch.setattr(version.Capabilities, "encode", padded)
    try:
        with open_lane("intel", qemu, vdxgk_run.path) as lane:
            assert lane.gpu.read(layout.REG_MAGIC) == layout.MAGIC
    except VmLost as lost:
        if "reply larger than recv buffer" not in str(lost):
            raise
        raise Defect(str(lost)) from lost


@finding
def test_migration_is_not_blocked(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with serving(vdxgk_run.path, WIDE) as (_, path):
        device = vfio_user(path, ADAPTER_SLOT)
        config = QtestConfig((device,), size=128 << 20)
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            try:
                machine.qmp.execute("migrate", {"uri": f"file:{vdxgk_run.path / 'state'}"})
            except Refused:
                return
            for _ in range(QUESTIONS):
                status = machine.qmp.execute("query-migrate").get("status")
                if status == "completed":
                    raise Defect("the device's state is silently left behind")
                assert status != "failed"
            pytest.fail("the migration does not end")


# ---- The page -------------------------------------------------------------------------


def test_every_finding_has_its_section_and_every_section_its_finding() -> None:
    page = (Path(__file__).parents[2] / "docs/qemu-findings.md").read_text()
    prefix = "Reproducer: `"
    sections = [
        line.removeprefix(prefix).rstrip("`") for line in page.splitlines() if prefix in line
    ]
    assert sections
    findings = [
        name.removeprefix("test_")
        for name, item in globals().items()
        if any(mark.name == "xfail" for mark in getattr(item, "pytestmark", []))
    ]
    assert sorted(sections) == sorted(findings)


def _intel(lane: Lane) -> IntelIommu:
    assert isinstance(lane.iommu, IntelIommu)
    return lane.iommu


def _virtio(lane: Lane) -> VirtioIommu:
    assert isinstance(lane.iommu, VirtioIommu)
    return lane.iommu


def _ranges(lane: Lane) -> str:
    return ", ".join(f"{iova:#x}+{size:#x}/{access}" for iova, size, access in lane.mapped())
