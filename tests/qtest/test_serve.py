"""The same with `vdxgk serve` as a process of its own: log file, control door, next client."""

from __future__ import annotations

import zlib

from tests.qtest.lane import ADAPTER_SLOT, BUFFER, PLATFORMS, REQUESTER, pattern
from vdxgk.channel import layout
from vdxgk.control import ask
from vdxgk_lab.pytest_plugin import StartDevice
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x1234_5000
LIVES = 3


def test_one_server_process_for_several_machines(
    qemu: QemuBinary, vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice
) -> None:
    device = vdxgk_start_device()
    config = QtestConfig((PLATFORMS["intel"].device, vfio_user(str(device.socket), ADAPTER_SLOT)))
    for life in range(LIVES):
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            qtest = machine.qtest
            gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
            gpu.start(MmioWindow())
            iommu = IntelIommu(qtest, Frames(qtest), REQUESTER)
            iommu.enable()
            content = pattern(life, PAGE)
            qtest.write(BUFFER, content)
            iommu.map(LOGICAL, BUFFER, PAGE, Access.READ)
            for flags in (0, layout.ENGINE_MESSAGES):
                command = {"flags": flags, "size": PAGE}
                read = gpu.engine(op=layout.ENGINE_CRC32, source=LOGICAL, **command)
                assert (read.status, read.result) == (0, zlib.crc32(content))
                write = gpu.engine(op=layout.ENGINE_FILL, destination=LOGICAL, **command)
                assert (write.status, write.done) != (0, PAGE)
            assert qtest.read(BUFFER, PAGE) == content
            status = ask(str(device.control), "query-status")
            assert status["connected"]
            assert status["faults"]["count"] == 2
            assert status["dma_mappings"] == 1
            assert machine.alive
        device.check()
    faults = [line for line in device.log.read_text().splitlines() if " fault " in line]
    assert len(faults) == 2 * LIVES
    assert all(f"{LOGICAL:#x}" in line for line in faults)
