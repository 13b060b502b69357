"""The examples of pyvfio-user under stock QEMU, used by a Linux guest without a driver.

The guest reaches registers through /dev/mem.  Memory for DMA is kept from its
kernel, so that its physical address is known and /dev/mem shows it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.protocol.examples import running
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.guest import Guest
from vdxgk_lab.pytest_plugin import StartMachine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COUNTER, EDU = "/sys/bus/pci/devices/0000:00:05.0", "/sys/bus/pci/devices/0000:00:06.0"
MEMORY = 0x8000000  # within edu's 28 address bits
BUFFER = 0x40000
MEMORY_AND_BUS_MASTER = r"\006"


class Function:
    """A PCI function in the guest."""

    def __init__(self, guest: Guest, path: str) -> None:
        self.guest = guest
        self.path = path
        command = f"printf '{MEMORY_AND_BUS_MASTER}' | dd of={path}/config bs=1 seek=4 conv=notrunc"
        guest.run(["sh", "-c", f"echo 1 >{path}/enable && {command}"]).check()
        resources = guest.run(["cat", f"{path}/resource"]).check().stdout.splitlines()
        self.bar0 = int(resources[0].split()[0], 16)

    def read(self, offset: int, bits: int = 32) -> int:
        return peek(self.guest, self.bar0 + offset, bits)

    def write(self, offset: int, value: int) -> None:
        poke(self.guest, self.bar0 + offset, value)


def peek(guest: Guest, address: int, bits: int = 32) -> int:
    return int(guest.run(["devmem", f"{address:#x}", str(bits)]).check().stdout, 16)


def poke(guest: Guest, address: int, value: int) -> None:
    guest.run(["devmem", f"{address:#x}", "32", f"{value:#x}"]).check()


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    directory = tmp_path_factory.mktemp("examples")
    counter, edu = directory / "counter.sock", directory / "edu.sock"
    with running("counter", str(counter)), running("edu", str(edu)):
        yield counter, edu


def test_a_guest_uses_both(sockets: tuple[Path, Path], vdxgk_start_machine: StartMachine) -> None:
    config = MachineConfig(
        iommu="none",
        devices=sockets,
        kernel_args=("vdxgk_load=no", f"memmap=1M${MEMORY:#x}"),
    )
    machine = vdxgk_start_machine(config)
    guest = machine.guest
    assert guest.run(["cat", f"{COUNTER}/device"]).check().stdout == "0xc0de\n"
    counter = Function(guest, COUNTER)
    assert [counter.read(0) for _ in range(3)] == [1, 2, 3]

    edu = Function(guest, EDU)
    assert edu.read(0) == 0x010000ED
    edu.write(4, 0x12345678)
    assert edu.read(4) == 0xEDCBA987
    assert edu.read(0, 8) == 0xFF
    edu.write(8, 10)
    while edu.read(0x20) & 1:
        pass
    assert edu.read(8) == 3628800

    words = [0xDEADBEEF, 0x01234567, 0x89ABCDEF]
    for position, value in enumerate(words):
        poke(guest, MEMORY + 4 * position, value)
        poke(guest, MEMORY + 0x1000 + 4 * position, 0)
    transfer(edu, MEMORY, BUFFER, 8, to_ram=False)
    transfer(edu, BUFFER, MEMORY + 0x1000, 12, to_ram=True)
    arrived = [peek(guest, MEMORY + 0x1000 + 4 * position) for position in range(3)]
    assert arrived == [*words[:2], 0]
    assert machine.alive


def transfer(edu: Function, source: int, destination: int, count: int, *, to_ram: bool) -> None:
    for offset, value in ((0x80, source), (0x88, destination), (0x90, count)):
        edu.write(offset, value)
    edu.write(0x98, 3 if to_ram else 1)
    while edu.read(0x98) & 1:
        pass
