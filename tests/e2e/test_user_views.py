"""Views of user mode: in the calling process, with its rights, and gone with it."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from tests.e2e.conftest import Bench
from vdxgk.engine import word_sequence
from vdxgk_lab.proof import scenarios
from vdxgk_lab.proof.cases import KIB, MIB, PAGE
from vdxgk_lab.proof.stub import Stub, StubRefused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SEGMENTATION_FAULT = 128 + 11
BUS_ERROR = 128 + 7
ATTRIBUTES = {"cached": "write-back", "wc": "write-combining", "uncached": "uncached-minus"}
TROUBLE = ("BUG:", "WARNING:", "Call Trace", "leaked", "PhysicalMemoryObject: 0x", "map pfn RAM")


def make(stub: Stub, *options: str) -> tuple[str, str]:
    answer = stub.call("create", *options, "--limit", "0")
    return answer["object"], answer["adapter_object"]


def trouble(bench: Bench) -> list[str]:
    log = scenarios.kernel_log(bench.guest).splitlines()
    return [line for line in log if any(word in line for word in TROUBLE)]


def views(bench: Bench) -> int:
    return int(bench.stub.call("status")["views"])


@pytest.mark.parametrize("cache", ["wc", "cached", "uncached"])
def test_both_modes_see_the_same_bytes_with_the_objects_cache_type(
    bench: Bench, cache: str
) -> None:
    stub = bench.stub
    # The pages of the last test are used again: what they were must not stick to them.
    target, opening = make(stub, "--type", "mdl", "--size", "1M", "--cache", cache)
    for mode in ("kernel", "user"):
        view = stub.call("map", target, "--size", "64K", "--offset", "5000", "--access", mode)
        assert (view["offset"], view["size"]) == (5000 - PAGE, 68 * KIB)
        assert (view["attributes"], view["writable"]) == (ATTRIBUTES[cache], True)
        if mode == "kernel":
            stub.call("unmap", str(view["view"]))
    place = ("--offset", "4104", "--size", "500001")
    stub.call("write", target, *place, "--value", "7", "--step", "9", "--user")
    assert not stub.call("read", target, *place, "--expect", "7", "--step", "9")["mismatch"]
    adl = stub.call("adl", opening, "--size", "1M", "--prefer-contiguous", "--limit", "1")
    logical = int(adl["logical"], 16)
    assert stub.device_crc32(logical + 4104, 500001) == zlib.crc32(word_sequence(7, 9, 0, 500001))
    assert stub.device_fill(logical, MIB, 3, 5)
    assert not stub.call("read", target, "--expect", "3", "--step", "5", "--user")["mismatch"]
    stub.free_adl(adl["adl"])
    assert views(bench) == 0
    stub.call("destroy", target, opening)
    assert trouble(bench) == []


def test_a_read_only_section_is_read_only(bench: Bench) -> None:
    stub = bench.stub
    target, opening = make(stub, "--type", "section", "--size", "64K", "--flags", "2")
    stub.call("write", target, "--value", "7", "--step", "9")
    assert not stub.call("map", target, "--size", "64K", "--user")["writable"]
    assert not stub.call("read", target, "--user", "--expect", "7", "--step", "9")["mismatch"]
    words = ("write", target, "--size", "64K", "--value", "1", "--user")
    assert bench.guest.run(["dxgkctl", *words]).exit_status == SEGMENTATION_FAULT
    assert not stub.call("read", target, "--user", "--expect", "7", "--step", "9")["mismatch"]
    assert views(bench) == 0
    stub.call("destroy", target, opening)


def test_what_a_hostile_process_tries(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "mdl", "--size", "64K")
    answer = bench.stub.call("abuse", target, "--size", "64K")
    names = ("mapped_by_hand", "split", "moved", "grown", "inherited", "ended")
    assert {name for name in names if answer[name]} == {"ended"}
    assert views(bench) == 0
    bench.stub.call("destroy", target, opening)
    assert trouble(bench) == []


# A process that maps, and waits for its next command; $1 is the object.
HOLDER = """
cd /tmp && rm -f in out && mkfifo in out
dxgkctl script - <in >out &
holder=$!
exec 3>in 4<out
echo "map $1 --size 64K --user" >&3
read -r line <&4; echo "$line"
view=$(echo "$line" | sed 's/.*"view": \\([0-9]*\\).*/\\1/')
base=$(echo "$line" | sed 's/.*"base": "\\(0x[0-9a-f]*\\)".*/\\1/')
"""


def together(bench: Bench, script: str, *arguments: str) -> list[dict[str, Any]]:
    """What the commands of a script answered, the holder's first."""
    words = ["sh", "-c", HOLDER + script, "sh", *arguments]
    result = bench.guest.run(words, timeout=120)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_only_the_process_that_mapped_unmaps(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "mdl", "--size", "64K")
    script = """
    dxgkctl --json destroy $1 $2
    echo "unmap $view" >&3; read -r line <&4; echo "$line"
    echo "map $1 --size 64K --user" >&3; read -r line <&4; echo "$line"
    dxgkctl --json status
    exec 3>&-; wait $holder
    dxgkctl --json status
    """
    mapped, destroyed, unmapped, again, during, after = together(bench, script, target, opening)
    assert mapped["name"] == unmapped["name"] == again["name"] == "STATUS_SUCCESS"
    assert destroyed["name"] == "STATUS_RESOURCE_IN_USE"
    assert (during["views"], after["views"]) == (1, 0)
    bench.stub.call("destroy", target, opening)


def test_another_process_is_denied(bench: Bench) -> None:
    target, opening = make(bench.stub, "--type", "mdl", "--size", "64K")
    script = """
    dxgkctl --json unmap $view
    dxgkctl --json status
    exec 3>&-; wait $holder
    dxgkctl --json status
    """
    _, denied, during, after = together(bench, script, target)
    assert denied["name"] == "STATUS_ACCESS_DENIED"
    assert (during["views"], after["views"]) == (1, 0)
    bench.stub.call("destroy", target, opening)


def test_a_killed_process_leaves_nothing(bench: Bench) -> None:
    before = trouble(bench)
    for _ in range(3):
        target, opening = make(bench.stub, "--type", "section", "--size", "64K", "--cache", "wc")
        script = """
        dxgkctl --json status
        kill -9 $holder; wait $holder
        dxgkctl --json status
        dxgkctl --json destroy $1 $2
        """
        _, during, after, destroyed = together(bench, script, target, opening)
        assert (during["views"], after["views"]) == (1, 0)
        assert destroyed["name"] == "STATUS_SUCCESS"
    # The miniport has nothing left either, or it would complain now.
    assert scenarios.unload_stub(bench.guest)
    assert scenarios.load_stub(bench.guest, "logical")
    assert trouble(bench) == before
    assert bench.status()["objects"] == []


def test_a_device_that_goes_takes_the_views_along(bench: Bench) -> None:
    before = trouble(bench)
    target, _ = make(bench.stub, "--type", "mdl", "--size", "64K")
    script = """
    echo "peek $base" >&3; read -r line <&4; echo "$line"
    echo 0000:00:05.0 >/sys/bus/pci/drivers/vdxgk/unbind
    echo 0000:00:05.0 >/sys/bus/pci/drivers/vdxgk/bind
    dxgkctl --json status
    echo "peek $base" >&3; wait $holder; echo "{\\"exit_status\\": $?}"
    dxgkctl --json status
    """
    _, peeked, during, end, after = together(bench, script, target)
    assert peeked["byte"] == 0
    assert (during["views"], during["objects"], after["views"]) == (0, 0, 0)
    # Its pages are the kernel's again: the process must not see them.
    assert end["exit_status"] == BUS_ERROR
    assert bench.status()["objects"] == []
    with pytest.raises(StubRefused, match="INVALID_HANDLE"):
        bench.stub.call("map", target, "--size", "4K", "--user")
    assert trouble(bench) == before
