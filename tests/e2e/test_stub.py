"""The stub by itself: arguments, lifetime, sub-ranges, unloading, physical mode."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterable
from typing import Any

import pytest

from tests.e2e.conftest import Bench
from vdxgk.conformance import load, run_together
from vdxgk.engine import word_sequence
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.errors import VmLost
from vdxgk_lab.guest import Guest
from vdxgk_lab.guest_conformance import GuestImplementation
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import KIB, MIB, PAGE
from vdxgk_lab.proof.stub import Stub, StubRefused
from vdxgk_lab.pytest_plugin import StartDevice, StartMachine
from vdxgk_lab.trees import DEFAULT_KERNEL, KERNELS, Kernel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Answer = dict[str, Any]
TROUBLE = re.compile(r"BUG:|WARNING:|Call Trace|Oops|leaked|unmapped 0x|broke a rule")


def script(guest: Guest, lines: Iterable[str]) -> list[Answer]:
    """One dxgkctl for many commands; their answers."""
    text = "\n".join(lines) + "\n"
    result = guest.run(["dxgkctl", "script", "-"], timeout=120, stdin=text.encode())
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert not [answer for answer in answers if "error" in answer], answers
    return answers


def statuses(bench: Bench, lines: Iterable[str]) -> list[str]:
    return [answer["name"].removeprefix("STATUS_") for answer in script(bench.guest, lines)]


def make(stub: Stub, *options: str) -> tuple[str, str]:
    """A new object: its handle and its adapter object's."""
    answer = stub.call("create", *options, "--limit", "0")
    return answer["object"], answer["adapter_object"]


def kernel_trouble(guest: Guest) -> list[str]:
    return [line for line in scenarios.kernel_log(guest).splitlines() if TROUBLE.search(line)]


def reload(guest: Guest, mode: str = "logical") -> None:
    assert scenarios.unload_stub(guest)
    assert scenarios.load_stub(guest, mode)


CREATE = {
    "--size 0": "INVALID_PARAMETER",
    "--size 0xffffffffffffffff": "NO_MEMORY",
    "--size 1T": "INVALID_PARAMETER",  # above the limit of an MDL
    "--size 1T --type contiguous": "NO_MEMORY",
    "--size 4K --type 7": "INVALID_PARAMETER",
    "--size 4K --cache 9": "INVALID_PARAMETER",
    "--size 4K --low 1G --high 512M": "INVALID_PARAMETER",
    "--size 4K --adapter 0x77": "INVALID_HANDLE",
    "--size 4K --skip 1": "INVALID_PARAMETER",
    "--size 4K --flags 0x80": "INVALID_PARAMETER",
    "--size 64K --type contiguous --boundary 32K": "NO_MEMORY",
    "--size 8K --type contiguous --low 4G --high 0x100000fff": "NO_MEMORY",
}


def test_bad_create_arguments_get_a_status(bench: Bench) -> None:
    found = statuses(bench, (f"create {options}" for options in CREATE))
    assert dict(zip(CREATE, found, strict=True)) == CREATE
    assert bench.status()["objects"] == []


LIST = {
    "--size 0": "INVALID_PARAMETER",
    "--size 1": "INVALID_PARAMETER",
    "--size 4K --offset 1": "INVALID_PARAMETER",
    "--size 128K": "INVALID_PARAMETER",
    "--size 4K --offset 64K": "INVALID_PARAMETER",
    "--size 0xfffffffffffff000 --offset 8K": "INVALID_PARAMETER",
    "--size 4K --flags 4": "INVALID_PARAMETER",
    "--size 4K --require-contiguous": "INVALID_PARAMETER",
}


def test_bad_list_and_view_arguments_get_a_status(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "mdl", "--size", "64K")
    found = statuses(bench, (f"adl {opening} {options}" for options in LIST))
    assert dict(zip(LIST, found, strict=True)) == LIST
    lines = [
        f"map {target} --size 0",
        f"map {target} --size 4K --offset 64K",
        f"map {target} --size 0xffffffffffffffff --offset 1",
        f"write {target} --size 64K --offset 1 --value 1",
        "unmap 77",
        "free 77",
        "pages 77",
        "dma 99",
        "dma copy --size 2G",
        "dma nop --flags 0x80",
        "dma nop",
        f"destroy {target} {opening}",
    ]
    assert statuses(bench, lines) == [
        *["INVALID_PARAMETER"] * 4,
        *["NOT_FOUND"] * 3,
        "INVALID_DEVICE_REQUEST",
        *["INVALID_PARAMETER"] * 2,
        *["SUCCESS"] * 2,
    ]


def test_handles_are_refused_unless_they_are_what_they_should_be(bench: Bench) -> None:
    stub = bench.stub
    target, opening = make(stub, "--type", "mdl", "--size", "64K", "--no-adapter")
    assert opening == "0x0"
    opening = stub.call("open", target)["adapter_object"]
    adl = stub.call("adl", opening, "--size", "64K")["adl"]
    adapter = stub.call("status")["adapter"]
    bugchecks = len([event for event in stub.events() if event["type"] == "bugcheck"])
    steps = {
        f"open {target}": "INVALID_PARAMETER",  # open already
        f"adl {target} --size 64K": "INVALID_HANDLE",  # of another kind
        f"destroy {opening}": "INVALID_HANDLE",
        f"destroy {adapter}": "INVALID_HANDLE",
        f"close {opening}": "RESOURCE_IN_USE",  # its list lives
        f"destroy {target} {opening}": "RESOURCE_IN_USE",
        f"destroy {target}": "RESOURCE_IN_USE",
        f"free {adl} 0x1234": "INVALID_HANDLE",
        f"free {adl}": "SUCCESS",
        f"free {adl} ": "NOT_FOUND",
        f"destroy {target}  ": "RESOURCE_IN_USE",  # open, and not passed
        f"close {opening} ": "SUCCESS",
        f"close {opening}  ": "INVALID_HANDLE",
        f"destroy {target}   ": "SUCCESS",
        f"destroy {target}    ": "INVALID_HANDLE",
        f"map {target} --size 4K": "INVALID_HANDLE",
        "destroy 0": "INVALID_HANDLE",
        "destroy 0xffffffffffffffff": "INVALID_HANDLE",
    }
    found = statuses(bench, steps)
    assert dict(zip(steps, found, strict=True)) == steps
    # Windows would have stopped at each of the four that broke a lifetime rule.
    events = [event for event in stub.events() if event["type"] == "bugcheck"]
    assert [int(event["p1"], 16) for event in events[bugchecks:]] == [7, 7, 7, 6]
    assert bench.status()["objects"] == []


def test_a_view_keeps_its_object(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "mdl", "--size", "64K", "--cache", "wc")
    view = bench.stub.call("map", target, "--size", "5000", "--offset", "4190")
    assert (view["offset"], view["size"]) == (94, 2 * PAGE)
    lines = [f"destroy {target} {opening}", f"unmap {view['view']}", f"unmap {view['view']} "]
    assert statuses(bench, lines) == ["RESOURCE_IN_USE", "SUCCESS", "NOT_FOUND"]
    assert statuses(bench, [f"destroy {target} {opening}"]) == ["SUCCESS"]


def test_odd_sub_ranges_of_lists_and_views(bench: Bench) -> None:
    stub = bench.stub
    target, opening = make(stub, "--type", "mdl", "--size", "1M")
    runs = stub.call("runs", target, "--limit", "1000")["runs"]
    pages = [int(b, 16) + i for b, s in runs for i in range(0, int(s, 16), PAGE)]
    ranges = [(0, PAGE), (PAGE, 2 * PAGE), (252 * KIB, 300 * KIB), (1020 * KIB, PAGE)]
    lists = [
        stub.call("adl", opening, "--offset", str(o), "--size", str(s), "--prefer-contiguous")
        for o, s in ranges
    ]
    # Lists overlap as they like; each has addresses of its own.
    logical = [(int(a["logical"], 16), s) for a, (_, s) in zip(lists, ranges, strict=True)]
    assert len({base for base, _ in logical}) == len(ranges)
    assert not any(
        base == pages[o // PAGE] for (base, _), (o, _) in zip(logical, ranges, strict=True)
    )
    for (base, size), (offset, _) in zip(logical, ranges, strict=True):
        place = ("--offset", str(offset), "--size", str(size))
        stub.call("write", target, *place, "--value", hex(offset), "--step", "77")
        expected = zlib.crc32(word_sequence(offset, 77, 0, size))
        assert stub.device_crc32(base, size) == expected
    # A view of odd bytes, over page borders.
    place = ("--offset", "4090", "--size", "5001")
    stub.call("write", target, *place, "--value", "3", "--step", "5")
    assert not stub.call("read", target, *place, "--expect", "3", "--step", "5")["mismatch"]
    with pytest.raises(StubRefused, match="DATA_ERROR"):
        stub.call(
            "read", target, "--offset", "4091", "--size", "5001", "--expect", "3", "--step", "5"
        )
    frees = [f"free {adl['adl']}" for adl in lists]
    assert set(statuses(bench, [*frees, f"destroy {target} {opening}"])) == {"SUCCESS"}


def available(guest: Guest) -> int:
    """Bytes that the guest could use, caches dropped."""
    words = ["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; grep MemAvailable /proc/meminfo"]
    return int(guest.run(words).check().stdout.split()[1]) * KIB


def lost_since(guest: Guest, before: int, allowed: int = 4 * MIB, seconds: float = 30) -> int:
    """Bytes fewer than before.  The kernel frees much of it later: what is lost stays lost."""
    until = time.monotonic() + seconds
    while (lost := before - available(guest)) >= allowed and time.monotonic() < until:
        time.sleep(1)
    return lost


def test_unloading_with_everything_alive_leaves_nothing(bench: Bench) -> None:
    guest = bench.guest
    reload(guest)
    before = 0
    for round_ in range(10):
        objects = script(
            guest, [f"create --size 256K --type {t} --limit 0" for t in ("mdl", "contiguous") * 2]
        )
        lines = [f"adl {o['adapter_object']} --size 256K --limit 0" for o in objects]
        lines += [f"map {o['object']} --size 64K" for o in objects]
        assert {answer["name"] for answer in script(guest, lines)} == {"STATUS_SUCCESS"}
        reload(guest)
        assert bench.status()["objects"] == []
        assert bench.status()["donated_bytes"] == 0
        if round_ == 1:  # the first ones fill caches
            before = available(guest)
    assert lost_since(guest, before) < 4 * MIB
    assert kernel_trouble(guest) == []


def test_a_killed_process_does_no_harm(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "contiguous", "--size", "64M")
    adl = bench.stub.call("adl", opening, "--size", "64M", "--prefer-contiguous")
    # Killed while the engine works for it, or before, or after: each is well.
    dma = f"dxgkctl dma crc32 --source {adl['logical']} --size 64M >/dev/null"
    loop = f"for i in 1 2 3 4 5 6; do {dma} & kill -9 $!; wait $!; done; true"
    bench.guest.run(["sh", "-c", loop], timeout=120).check()
    assert statuses(bench, ["dma nop"]) == ["SUCCESS"]
    lines = [f"free {adl['adl']}", f"destroy {target} {opening}"]
    assert statuses(bench, lines) == ["SUCCESS", "SUCCESS"]
    assert kernel_trouble(bench.guest) == []


@pytest.mark.parametrize(
    ("wddm", "status"), [("2.8", "NOT_SUPPORTED"), ("2.9", "SUCCESS"), ("3.1", "SUCCESS")]
)
def test_the_table_of_an_older_or_newer_dxgkrnl(bench: Bench, wddm: str, status: str) -> None:
    """The miniport looks at Size before it calls: what lies beyond is poison."""
    guest = bench.guest
    assert scenarios.unload_stub(guest)
    guest.run(["insmod", scenarios.MODULE, "mode=logical", f"wddm={wddm}"]).check()
    lines = ["create --size 64K --limit 0", "pin --size 64K --limit 0"]
    assert statuses(bench, lines) == [status, status]
    assert scenarios.unload_stub(guest)
    assert not guest.run(["insmod", scenarios.MODULE, "wddm=1.0"]).ok
    assert "wddm=1.0 is none of" in scenarios.kernel_log(guest)
    assert scenarios.load_stub(guest, "logical")
    assert kernel_trouble(guest) == []


def test_a_bugcheck_stops_the_guest_only_if_asked(
    vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine
) -> None:
    device = vdxgk_start_device()
    config = MachineConfig(devices=(device.socket,), kernel_args=("vdxgk_load=no",))
    vm = vdxgk_start_machine(config)
    stub = Stub(vm.guest)
    assert scenarios.load_stub(vm.guest, "logical")
    target, _ = make(stub, "--size", "64K")
    stub.try_("destroy", target)
    assert vm.alive
    option = "/sys/module/vdxgk/parameters/bugcheck_panics"
    vm.guest.run(["sh", "-c", f"echo 1 >{option}"]).check()
    with pytest.raises(VmLost):
        vm.guest.run(["sh", "-c", f"dxgkctl destroy {target}; sleep 60"], timeout=120)
    assert "vdxgk: bugcheck 0x1e4 (0x6)" in vm.console
    device.check()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--matrix")
        metafunc.parametrize("kernel", KERNELS if everything else [DEFAULT_KERNEL])


def test_physical_mode(
    vdxgk_start_device: StartDevice, vdxgk_start_machine: StartMachine, kernel: Kernel
) -> None:
    """All memory within reach, no IOMMU: page numbers are guest-physical."""
    device = vdxgk_start_device()
    config = MachineConfig(iommu="none", devices=(device.socket,), kernel_args=("vdxgk_load=no",))
    guest = vdxgk_start_machine(config, kernel=kernel).guest
    stub = Stub(guest)
    assert scenarios.default_domain(guest) == "none"
    assert scenarios.load_stub(guest, "physical"), scenarios.kernel_log(guest)[-1000:]
    assert stub.status().mode == "physical"

    target, opening = make(stub, "--type", "mdl", "--size", "64K")
    runs = stub.call("runs", target)["runs"]
    adl = stub.call("adl", opening, "--size", "64K", "--prefer-contiguous", "--limit", "64")
    pages = [int(b, 16) + i for b, s in runs for i in range(0, int(s, 16), PAGE)]
    assert [int(page, 16) * PAGE for page in adl["pages"]] == pages
    assert not adl["contiguous"], "scattered pages have no single address here"
    stub.call("write", target, "--value", "9", "--step", "7")
    for index in (0, 7, 15):
        expected = zlib.crc32(word_sequence(9, 7, index * PAGE, PAGE))
        for messages in (False, True):
            assert stub.device_crc32(pages[index], PAGE, messages=messages) == expected

    one, one_opening = make(stub, "--type", "contiguous", "--size", "1M")
    row = stub.call("adl", one_opening, "--size", "1M", "--require-contiguous", "--limit", "1")
    assert row["contiguous"]
    assert stub.device_fill(int(row["logical"], 16), MIB, 5, 3)
    assert not stub.call("read", one, "--expect", "5", "--step", "3")["mismatch"]

    # A canary page, hit on purpose: nothing but the canary stops a wrong write here.
    free = next(base + PAGE for base in pages if base + PAGE not in pages)
    assert scenarios.canaries_are_untouched(stub).ok
    stub.dma("fill", destination=free, size=8, value=0xDEAD)
    assert stub.canary().damaged == 1

    vectors = [v for v in load() if v.requires == {"physical-addressing"}]
    implementation = GuestImplementation(guest)
    for result in run_together(vectors, implementation).values():
        assert (result.failures, result.unobserved) == ([], []), result.id
    implementation.close()

    # The device goes while a file is open, and comes back.
    words = (
        "exec 3<>/dev/vdxgk0; cd /sys/bus/pci/drivers/vdxgk; echo 0000:00:05.0 >unbind; "
        "test ! -e /dev/vdxgk0 || exit 1; exec 3>&-; echo 0000:00:05.0 >bind; test -c /dev/vdxgk0"
    )
    guest.run(["sh", "-c", words]).check()
    assert stub.call("status")["objects"] == 0
    assert scenarios.unload_stub(guest)
    trouble = [line for line in kernel_trouble(guest) if "canar" not in line]
    assert trouble == []
    device.check()
