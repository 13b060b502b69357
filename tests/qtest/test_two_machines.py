"""Two machines on two adapters of one server process: what is one's is no other's."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.qtest.lane import ADAPTER_SLOT, BUFFER, PATHS, PLATFORMS, REQUESTER, pattern
from vdxgk.channel import layout
from vdxgk.control import ask
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.pytest_plugin import StartDevice
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.iommu import PAGE, Frames
from vdxgk_lab.qtest.machine import HIGH_MEMORY, QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.run_directory import RunDirectory

PAGES = 16
MACHINES = 2
SHARED = 0x4000_0000
"""A logical address that both machines use, each for memory of its own."""


@dataclass
class Side:
    """One machine, and where its adapter may reach what."""

    number: int
    machine: QtestMachine
    gpu: BareAdapter
    iommu: IntelIommu
    pages: dict[int, int]
    """Guest-physical page by logical page."""

    def content(self, logical: int) -> bytes:
        return pattern(self.number << 24 | logical >> 12, PAGE)

    def read(self, address: int, flags: int) -> layout.EngineCompletion:
        return self.gpu.engine(op=layout.ENGINE_CRC32, flags=flags, source=address, size=PAGE)

    def assert_owns(self, flags: int) -> None:
        for logical in self.pages:
            read = self.read(logical, flags)
            assert (read.status, read.done) == (0, PAGE), hex(logical)
            assert read.result == zlib.crc32(self.content(logical)), hex(logical)


@contextmanager
def side(number: int, device: DeviceProcess, qemu: QemuBinary, run: RunDirectory) -> Iterator[Side]:
    socket = str(device.sockets[number])
    config = QtestConfig((PLATFORMS["intel"].device, vfio_user(socket, ADAPTER_SLOT)))
    directory = run.path / f"machine-{number}"
    directory.mkdir()
    with QtestMachine(config, qemu, directory) as machine:
        qtest = machine.qtest
        gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
        gpu.start(MmioWindow())
        iommu = IntelIommu(qtest, Frames(qtest), REQUESTER)
        # Own ranges that do not meet the other's; memory below and above 4 GiB.
        logical = 0x5000_0000 + number * 0x1000_0000
        physical = BUFFER + number * 2 * PAGES * PAGE
        pages = {SHARED: physical + PAGES * PAGE}
        for index in range(PAGES):
            place = physical + index * PAGE
            pages[logical + index * PAGE] = place if index % 2 else HIGH_MEMORY + place
        made = Side(number, machine, gpu, iommu, pages)
        for where, place in pages.items():
            qtest.write(place, made.content(where))
        yield made


def test_neither_reads_a_byte_of_the_other(
    qemu: QemuBinary, vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice
) -> None:
    device = vdxgk_start_device("--dma-bits", "64", adapters=MACHINES)
    with ExitStack() as stack:
        sides = [
            stack.enter_context(side(number, device, qemu, vdxgk_run)) for number in range(MACHINES)
        ]
        for each in sides:
            each.iommu.enable()
            for logical, physical in each.pages.items():
                each.iommu.map(logical, physical, PAGE)
        for name, flags in PATHS.items():
            for own, other in (sides, sides[::-1]):
                own.assert_owns(flags)
                other.assert_owns(flags)
                mine = set(own.pages)
                theirs = (set(other.pages) | set(other.pages.values())) - mine
                assert len(theirs) > PAGES
                for address in sorted(theirs):
                    refused = own.read(address, flags)
                    assert refused.status != 0, (name, hex(address))
                    assert (refused.done, refused.result) == (0, 0), (name, hex(address))
        for number, each in enumerate(sides):
            status = ask(str(device.controls[number]), "query-status")
            assert status["connections"] == 1
            assert status["dma_mappings"] <= len(each.pages)
            assert status["faults"]["count"] == len(PATHS) * (
                len(set(sides[1 - number].pages) | set(sides[1 - number].pages.values()))
                - 1  # the shared logical address is its own
            )
            for logical, physical in each.pages.items():
                assert each.machine.qtest.read(physical, PAGE) == each.content(logical)
        device.check()


def test_one_machines_end_is_not_the_others(
    qemu: QemuBinary, vdxgk_run: RunDirectory, vdxgk_start_device: StartDevice
) -> None:
    device = vdxgk_start_device(adapters=MACHINES)
    with side(0, device, qemu, vdxgk_run) as lives:
        lives.iommu.enable()
        for logical, physical in lives.pages.items():
            lives.iommu.map(logical, physical & (HIGH_MEMORY - 1), PAGE)
            lives.machine.qtest.write(physical & (HIGH_MEMORY - 1), lives.content(logical))
        with side(1, device, qemu, vdxgk_run) as dies:
            assert ask(str(device.controls[1]), "query-status")["connected"]
            dies.machine.kill()
        for flags in PATHS.values():
            lives.assert_owns(flags)
        assert lives.machine.alive
        device.check()
