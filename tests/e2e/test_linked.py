"""Linked adapters in a guest: one logical adapter over two PCI functions, and a third apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.test_stub import kernel_trouble
from vdxgk.control import ask
from vdxgk_lab.command_line import Iommu, MachineConfig
from vdxgk_lab.guest import Guest
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import KIB
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SIZE = 256 * KIB
FIRST, SECOND, APART = range(3)
SLOTS = ("0000:00:05.0", "0000:00:06.0", "0000:00:07.0")
DRIVER = "/sys/bus/pci/drivers/vdxgk"


class Functions:
    """dxgkctl for each of them."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def call(self, function: int, line: str) -> dict[str, Any]:
        words = ["dxgkctl", "--json", "--device", f"/dev/vdxgk{function}", *line.split()]
        answer: dict[str, Any] = json.loads(self.guest.run(words, timeout=120).stdout)
        return answer

    def fill(self, function: int, address: int, value: int) -> None:
        line = f"dma fill --destination {address:#x} --size {SIZE} --value {value} --step 7"
        assert not self.call(function, line)["fault"]

    def crc(self, function: int, address: int) -> str | None:
        answer = self.call(function, f"dma crc32 --source {address:#x} --size {SIZE}")
        return None if answer["fault"] else answer["crc32"]

    def there(self, function: int) -> bool:
        return self.guest.run(["test", "-c", f"/dev/vdxgk{function}"]).ok


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The other IOMMUs differ in nothing that this is about: with --long only."""
    long = metafunc.config.getoption("--long")
    metafunc.parametrize("iommu", ["intel", "amd", "virtio"] if long else ["intel"])


def test_a_list_is_both_functions_and_no_thirds(
    iommu: Iommu,
    vdxgk_start_device: StartDevice,
    vdxgk_start_machine: StartMachine,
) -> None:
    linked = vdxgk_start_device("--linked", adapters=2)
    apart = vdxgk_start_device(name="apart")
    devices = (*linked.sockets, apart.socket)
    config = MachineConfig(iommu=iommu, devices=devices, kernel_args=("vdxgk_load=no",))
    guest = vdxgk_start_machine(config).guest
    assert scenarios.load_stub(guest, "logical"), scenarios.kernel_log(guest)[-2000:]
    functions = Functions(guest)
    adapters = [functions.call(number, "status")["adapter"] for number in range(3)]
    assert adapters[FIRST] == adapters[SECOND]

    # Made through either function's driver.
    for maker in (FIRST, SECOND):
        made = functions.call(maker, f"create --type mdl --size {SIZE} --limit 0")
        target, opening = made["object"], made["adapter_object"]
        adl = functions.call(maker, f"adl {opening} --size {SIZE} --prefer-contiguous --limit 1")
        address = int(adl["logical"], 16)
        for writer, reader in ((FIRST, SECOND), (SECOND, FIRST)):
            value = 1000 + writer
            functions.fill(writer, address, value)
            assert functions.crc(reader, address) == functions.crc(writer, address)
            expect = f"read {target} --size {SIZE} --expect {value} --step 7"
            assert not functions.call(maker, expect)["mismatch"]
        assert functions.crc(APART, address) is None
        mapped = [ask(str(door), "query-status")["dma_mappings"] for door in linked.controls]
        assert mapped[0] == mapped[1] >= SIZE // (4 * KIB)

        switched = functions.call(FIRST, "exclusive")
        assert (switched["name"], switched["violations"]) == ("STATUS_SUCCESS", 0)
        assert functions.crc(SECOND, address) == functions.crc(FIRST, address) is not None

        assert functions.call(maker, f"free {adl['adl']}")["name"] == "STATUS_SUCCESS"
        assert functions.crc(FIRST, address) is functions.crc(SECOND, address) is None
        ended = functions.call(maker, f"destroy {target} {opening}")
        assert ended["name"] == "STATUS_SUCCESS"

    for index in (FIRST, SECOND):
        pinned = functions.call(FIRST, f"pin --size 64K --index {index} --limit 1")
        assert pinned["name"] == "STATUS_SUCCESS"
    assert functions.call(FIRST, "pin --size 64K --index 2")["name"] == "STATUS_INVALID_PARAMETER"

    # The adapter goes with the first function that goes, and comes back with it.
    guest.run(["sh", "-c", f"echo {SLOTS[SECOND]} >{DRIVER}/unbind"]).check()
    assert [functions.there(number) for number in range(3)] == [False, False, True]
    assert ask(str(linked.control), "query-status")["objects"] == []
    guest.run(["sh", "-c", f"echo {SLOTS[SECOND]} >{DRIVER}/bind"]).check()
    assert [functions.there(number) for number in range(3)] == [True, True, True]
    assert functions.call(SECOND, "create --size 64K --limit 0")["name"] == "STATUS_SUCCESS"

    assert scenarios.unload_stub(guest)
    for door in (*linked.controls, apart.control):
        assert ask(str(door), "query-status")["donated_bytes"] == 0
    assert kernel_trouble(guest) == []
    linked.check()
