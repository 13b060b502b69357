"""A server in its sandbox does all that it does outside, behind real QEMU."""

from __future__ import annotations

import zlib

from tests.landlock import needs_landlock
from tests.qtest.lane import ADAPTER_SLOT, BUFFER, PATHS, PLATFORMS, REQUESTER, pattern
from tests.unit.vdxgk.vnc.viewer import ZRLE, SocketViewer
from tests.unit.vdxgk.world import mdl
from vdxgk.channel import layout
from vdxgk.control import ask
from vdxgk.engine import word_sequence
from vdxgk_lab.pytest_plugin import StartDevice
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import LARGE, PAGE, Frames
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.run_directory import RunDirectory

LOGICAL = 0x1240_0000
DONATION = 256 << 20
LIVES = 2


@needs_landlock
def test_a_sandboxed_server(
    qemu: QemuBinary, vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice
) -> None:
    vnc, trace, audit = (vdxgk_run.path / name for name in ("vnc", "trace", "audit"))
    device = vdxgk_start_device(
        *("--sandbox", "--misbehave", "--vnc", str(vnc)),
        *("--trace", str(trace), "--audit", str(audit)),
    )
    config = QtestConfig((PLATFORMS["intel"].device, vfio_user(str(device.socket), ADAPTER_SLOT)))
    for life in range(LIVES):
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            qtest = machine.qtest
            gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
            gpu.start(MmioWindow())
            iommu = IntelIommu(qtest, Frames(qtest), REQUESTER)
            iommu.enable()
            content = pattern(life, LARGE)
            qtest.write(BUFFER, content)
            iommu.map(LOGICAL, BUFFER, LARGE)
            gpu.create_object(bytes(mdl(0, 64 * PAGE)), DONATION)
            for flags in PATHS.values():
                command = {"flags": flags, "size": LARGE}
                read = gpu.engine(op=layout.ENGINE_CRC32, source=LOGICAL, **command)
                assert (read.status, read.result) == (0, zlib.crc32(content))
                command = {"flags": flags, "size": 3 * PAGE, "value": life, "step": 7}
                written = gpu.engine(op=layout.ENGINE_FILL, destination=LOGICAL, **command)
                assert written.status == 0
                content = word_sequence(life, 7, 0, 3 * PAGE) + content[3 * PAGE :]
                assert qtest.read(BUFFER, LARGE) == content
                assert gpu.engine(op=layout.ENGINE_CRC32, flags=flags, size=8).status != 0
            viewer = SocketViewer(str(vnc))
            viewer.encodings(ZRLE)
            viewer.request(incremental=False)
            viewer.update()
            viewer.socket.close()
            assert ask(str(device.control), "screenshot", timeout=60)["png"]
            status = ask(str(device.control), "query-status")
            assert status["connected"]
            assert (len(status["objects"]), status["dma_mappings"]) == (1, LARGE // PAGE)
            assert machine.alive
        device.check()
    assert device.stop() == 0
    log = device.log.read_text()
    assert "sandboxed" in log
    assert "internal error" not in log
    for path in (device.socket, device.control, vnc):
        assert not path.exists()
    assert min(trace.stat().st_size, audit.stat().st_size) > PAGE
