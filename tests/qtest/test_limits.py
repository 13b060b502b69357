"""Limits behind real QEMU: the guest gets the NTSTATUS, and everything else lives on."""

from __future__ import annotations

import zlib

from tests.qtest.lane import ADAPTER_SLOT, BUFFER, PATHS, PLATFORMS, REQUESTER, pattern
from tests.unit.vdxgk.world import contiguous
from vdxgk.channel import layout
from vdxgk.control import ask
from vdxgk.memory.ntstatus import NtStatus
from vdxgk_lab.pytest_plugin import StartDevice
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import PAGE, Frames
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x1234_5000
NOWHERE = 0x7000_0000
DONATION = 256 << 20
OBJECTS = 3
PENDING = 2
WAITING = 5
FAULTS = 200
LINES = 5


def test_a_guest_that_asks_for_too_much(
    qemu: QemuBinary, vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice
) -> None:
    limits = {"objects": OBJECTS, "pending": PENDING, "log-lines": LINES}
    device = vdxgk_start_device(*(f"--max-{name}={value}" for name, value in limits.items()))
    config = QtestConfig((PLATFORMS["intel"].device, vfio_user(str(device.socket), ADAPTER_SLOT)))
    with QtestMachine(config, qemu, vdxgk_run.path) as machine:
        qtest = machine.qtest
        gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
        gpu.start(MmioWindow())
        iommu = IntelIommu(qtest, Frames(qtest), REQUESTER)
        iommu.enable()
        content = pattern(1, PAGE)
        qtest.write(BUFFER, content)
        iommu.map(LOGICAL, BUFFER, PAGE)

        wanted = bytes(contiguous(0, PAGE))
        for _ in range(OBJECTS):
            gpu.create_object(wanted, DONATION)
        refused = gpu.request(layout.OP_CREATE_OBJECT, wanted)
        assert refused.status == NtStatus.INSUFFICIENT_RESOURCES

        gpu.submit_all([{"fence": number} for number in range(WAITING)])
        answers = [gpu.completion() for _ in range(WAITING)]
        assert [each.fence for each in answers] == list(range(WAITING))
        busy = [NtStatus.DEVICE_BUSY] * (WAITING - PENDING)
        assert [each.status for each in answers] == [NtStatus.SUCCESS] * PENDING + busy

        for _ in range(FAULTS):
            assert gpu.engine(op=layout.ENGINE_CRC32, source=NOWHERE, size=8).status != 0

        for flags in PATHS.values():
            read = gpu.engine(op=layout.ENGINE_CRC32, flags=flags, source=LOGICAL, size=PAGE)
            assert (read.status, read.result) == (0, zlib.crc32(content))
        status = ask(str(device.control), "query-status")
        assert len(status["objects"]) == OBJECTS
        assert status["faults"]["count"] == FAULTS
        assert machine.alive
        device.check()
    lines = device.log.read_text().splitlines()
    faults = [line for line in lines if " fault " in line]
    assert LINES <= len(faults) < FAULTS
    assert any(" refused " in line and "INSUFFICIENT_RESOURCES" in line for line in lines)
