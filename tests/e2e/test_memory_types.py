"""IO space and sections in a real guest: lists, DMA, views and their cache types."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from tests.e2e.conftest import Bench
from vdxgk.engine import word_sequence
from vdxgk_lab.guest import Guest
from vdxgk_lab.proof.cases import KIB, MIB, PAGE
from vdxgk_lab.proof.stub import Stub, StubRefused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

INACCESSIBLE = 6
PCI = "/sys/bus/pci/devices/0000:00:05.0"
MEMORY_TYPES = "/sys/kernel/debug/x86/pat_memtype_list"


def bars(guest: Guest) -> list[tuple[int, int]]:
    """Base and size of each BAR; size 0 where there is none."""
    lines = guest.run(["cat", f"{PCI}/resource"]).check().stdout.splitlines()[:6]
    words = [[int(word, 16) for word in line.split()] for line in lines]
    return [(first, last - first + 1 if last else 0) for first, last, _ in words]


def make(stub: Stub, *options: str) -> tuple[str, str]:
    answer = stub.call("create", *options, "--limit", "0")
    return answer["object"], answer["adapter_object"]


def described(bench: Bench, handle: str) -> dict[str, Any]:
    """What the device says of an object."""
    [found] = [o for o in bench.status()["objects"] if o["handle"] == int(handle, 16)]
    return dict(found)


def crc(value: int, step: int, size: int) -> int:
    return zlib.crc32(word_sequence(value, step, 0, size))


class TestIoSpace:
    @pytest.mark.parametrize("cache", ["uncached", "wc", "cached"])
    def test_the_device_reaches_its_framebuffer_by_messages(self, bench: Bench, cache: str) -> None:
        stub = bench.stub
        base, size = bars(bench.guest)[0]
        target, opening = make(
            stub, "--type", "io-space", "--low", hex(base), "--size", str(size), "--cache", cache
        )
        place = ("--offset", str(MIB + PAGE), "--size", str(64 * KIB))
        adl = stub.call("adl", opening, *place, "--require-contiguous", "--limit", "16")
        logical = int(adl["logical"], 16)
        assert adl["contiguous"]
        assert logical != base + MIB + PAGE

        stub.call("write", target, *place, "--value", "7", "--step", "9")
        expected = crc(7, 9, 64 * KIB)
        assert stub.device_crc32(logical, 64 * KIB, messages=True) == expected
        # Without a descriptor there is no other way to it.
        refused = stub.dma("crc32", source=logical, size=PAGE)
        assert (refused.faulted, refused.fault_reason) == (True, INACCESSIBLE)
        assert stub.device_fill(logical, 64 * KIB, 11, 13, messages=True)
        assert not stub.call("read", target, *place, "--expect", "11", "--step", "13")["mismatch"]

        stub.free_adl(adl["adl"])
        gone = stub.dma("crc32", source=logical, size=PAGE, messages=True)
        assert gone.faulted
        stub.call("destroy", target, opening)

    def test_all_of_it_in_one_list_with_large_leaves(self, bench: Bench) -> None:
        base, size = bars(bench.guest)[0]
        target, opening = make(
            bench.stub, "--type", "io-space", "--low", hex(base), "--size", str(size)
        )
        adl = bench.stub.call("adl", opening, "--size", str(size), "--require-contiguous")
        [listed] = described(bench, target)["lists"]
        assert listed["announced"] == size // (2 * MIB)
        bench.stub.free_adl(adl["adl"])
        bench.stub.call("destroy", target, opening)

    @pytest.mark.parametrize("kind", ["skip", "wrong", "read-only"])
    def test_a_wrong_mapping_never_becomes_a_list(self, bench: Bench, kind: str) -> None:
        stub = bench.stub
        base, _ = bars(bench.guest)[0]
        # A page for the wrong mapping to lead to.
        other = make(stub, "--size", "64K")
        target, opening = make(stub, "--type", "io-space", "--low", hex(base), "--size", "64K")
        stub.sabotage(kind, 9)
        with pytest.raises(StubRefused, match="UNSUCCESSFUL"):
            stub.call("adl", opening, "--size", "64K", "--require-contiguous")
        assert int(bench.last_event("remap-failure")["expected"], 16) == base + 9 * PAGE
        stub.free_adl(stub.call("adl", opening, "--size", "64K")["adl"])
        stub.call("destroy", target, opening)
        stub.call("destroy", *other)

    def test_only_memory_without_side_effects_is_wrapped(self, bench: Bench) -> None:
        (base, size), _, registers, _, channel, _ = bars(bench.guest)
        ranges = [
            registers,
            channel,
            (base, 2 * size),
            (base - PAGE, 2 * PAGE),
            (base + size, PAGE),
            (base + 1, PAGE),
            (base, PAGE + 1),
            (1 << 20, PAGE),  # RAM
            ((1 << 64) - PAGE, PAGE),
        ]
        for low, length in ranges:
            words = ("--type", "io-space", "--low", hex(low), "--size", str(length))
            with pytest.raises(StubRefused, match="INVALID_PARAMETER"):
                bench.stub.call("create", *words)

    def test_views_are_for_the_kernel_and_have_the_cache_type(self, bench: Bench) -> None:
        guest, stub = bench.guest, bench.stub
        guest.run(["sh", "-c", f"test -e {MEMORY_TYPES} || mount -t debugfs d /sys/kernel/debug"])
        base, _ = bars(guest)[0]
        # Firmware's MTRRs make the range of BARs uncached: a cached mapping cannot override that.
        names = {"uncached": "uncached-minus", "wc": "write-combining", "cached": "uncached-minus"}
        for cache, name in names.items():
            words = ("--type", "io-space", "--low", hex(base), "--size", "1M", "--cache", cache)
            target, opening = make(stub, *words)
            with pytest.raises(StubRefused, match="INVALID_PARAMETER"):
                stub.call("map", target, "--size", "4K", "--user")
            view = stub.call("map", target, "--size", "5000", "--offset", "9000")
            assert (view["offset"], view["size"]) == (9000 - 2 * PAGE, 2 * PAGE)
            types = guest.run(["cat", MEMORY_TYPES]).check().stdout
            place = f"0x{base + 2 * PAGE:016x}-0x{base + 4 * PAGE:016x}"
            assert f"[mem {place}] {name}\n" in types
            stub.call("unmap", str(view["view"]))
            assert place not in guest.run(["cat", MEMORY_TYPES]).check().stdout
            stub.call("destroy", target, opening)


class TestSection:
    def test_memory_comes_with_the_first_use_and_is_zero(self, bench: Bench) -> None:
        stub = bench.stub
        # What its pages held before must not show.
        dirty, dirty_opening = make(stub, "--size", "2M")
        stub.call("write", dirty, "--value", "0xdead", "--step", "1")
        stub.call("destroy", dirty, dirty_opening)

        target, opening = make(stub, "--type", "section", "--size", "1M")
        assert (described(bench, target)["run_count"], described(bench, target)["locked"]) == (
            0,
            False,
        )
        adl = stub.call("adl", opening, "--size", "1M", "--prefer-contiguous", "--limit", "1")
        assert described(bench, target)["locked"]
        logical = int(adl["logical"], 16)
        assert stub.device_crc32(logical, MIB) == zlib.crc32(bytes(MIB))
        stub.call("write", target, "--value", "3", "--step", "5")
        assert stub.device_crc32(logical, MIB) == crc(3, 5, MIB)
        runs = stub.call("runs", target, "--limit", "1000")["runs"]
        stub.free_adl(adl["adl"])
        assert not described(bench, target)["locked"]

        # Its content stays, and another list shows it.
        again = stub.call("adl", opening, "--size", "1M", "--prefer-contiguous", "--limit", "1")
        assert stub.device_crc32(int(again["logical"], 16), MIB) == crc(3, 5, MIB)
        assert stub.call("runs", target, "--limit", "1000")["runs"] == runs
        stub.free_adl(again["adl"])
        stub.call("destroy", target, opening)
        assert stub.canary().damaged == 0

    def test_several_views_of_one_section(self, bench: Bench) -> None:
        stub = bench.stub
        target, opening = make(stub, "--type", "section", "--size", "64K", "--cache", "wc")
        views = [stub.call("map", target, "--size", "64K") for _ in range(3)]
        assert len({view["base"] for view in views}) == 3
        assert described(bench, target)["cpu_mappings"] == 3
        for view in views:
            stub.call("unmap", str(view["view"]))
        assert not described(bench, target)["locked"]
        stub.call("destroy", target, opening)

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ("--size 4K --flags 0", "INVALID_PAGE_PROTECTION"),
            ("--size 4K --flags 0x404", "INVALID_PAGE_PROTECTION"),
            ("--size 4K --cache uncached", "INVALID_PARAMETER"),
            ("--size 8G", "COMMITMENT_LIMIT"),
            ("--size 2T", "SECTION_TOO_BIG"),
        ],
    )
    def test_bad_arguments(self, bench: Bench, options: str, status: str) -> None:
        with pytest.raises(StubRefused, match=status):
            bench.stub.call("create", "--type", "section", *options.split())

    def test_a_section_that_the_guest_cannot_back(self, bench: Bench) -> None:
        """Committed, but the guest has not that much to give: the first use fails, no more."""
        stub = bench.stub
        target, opening = make(stub, "--type", "section", "--size", "4600M")
        for command in ("adl", "map"):
            handle = opening if command == "adl" else target
            with pytest.raises(StubRefused, match="NO_MEMORY"):
                stub.call(command, handle, "--size", "4K")
        assert described(bench, target)["run_count"] == 0
        stub.call("destroy", target, opening)
        stub.call("destroy", *make(stub, "--size", "64K"))
