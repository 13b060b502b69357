"""The DMA oracle, and what it concludes from a guest's trace."""

from __future__ import annotations

import os

import pytest

from pyvfio_user import Access, Bar, ConfigSpace, Device, DmaFault, IrqType, MsixCapability
from vdxgk_lab.dma_oracle import Bug, DeviceAccess, DmaBugs, DmaOracle
from vdxgk_lab.dma_trace import ApiMapping, TraceUnclear, judge, mappings_of
from vdxgk_lab.errors import LabError

PAGE = 0x1000
MASTER = b"\x04\x00"
BOTH = Access.READ | Access.WRITE


@pytest.fixture
def device() -> Device:
    config = ConfigSpace(0x1234, 0x1ACC, 0xFF0000)
    config.add_capability(MsixCapability(1, 2, 0, 2, 0x800))
    device = Device(config, {2: Bar(0x1000)})
    device.config.write(0x04, MASTER)
    return device


@pytest.fixture
def oracle(device: Device) -> DmaOracle:
    return DmaOracle(device, address_bits=28)


def map_pages(device: Device, iova: int, count: int = 1, access: Access = BOTH) -> None:
    for index in range(count):
        file = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.ftruncate(file, PAGE)
        device.dma.map(iova + index * PAGE, PAGE, access, file)


def bugs_after(device: Device, oracle: DmaOracle, write: bool, iova: int, size: int) -> set[Bug]:
    try:
        if write:
            device.dma.write(iova, bytes(size))
        else:
            device.dma.read(iova, size)
    except DmaFault:
        pass
    return oracle.bugs


def test_correct_accesses_are_no_findings(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, PAGE, 2)
    assert bugs_after(device, oracle, True, PAGE + 8, 2 * PAGE - 8) == set()
    oracle.check()
    assert oracle.accesses == [DeviceAccess(PAGE + 8, 2 * PAGE - 8, True, 0)]


def test_use_after_unmap(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, PAGE)
    device.dma.unmap(PAGE, PAGE)
    assert bugs_after(device, oracle, False, PAGE, 8) == {Bug.USE_AFTER_UNMAP}
    with pytest.raises(DmaBugs, match=r"USE_AFTER_UNMAP: read of 8 bytes at 0x1000"):
        oracle.check()


def test_what_firmware_unmapped_was_never_the_drivers(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, PAGE)
    device.config.write(0x04, b"\x00\x00")
    device.dma.unmap(PAGE, PAGE)
    device.config.write(0x04, MASTER)
    assert bugs_after(device, oracle, False, PAGE, 8) == {Bug.WILD_ADDRESS}


def test_an_unmap_of_nothing_is_not_remembered(device: Device, oracle: DmaOracle) -> None:
    device.dma.unmap(PAGE, PAGE)
    assert bugs_after(device, oracle, False, PAGE, 8) == {Bug.WILD_ADDRESS}


def test_wrong_direction(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, PAGE, access=Access.READ)
    assert bugs_after(device, oracle, True, PAGE, 8) == {Bug.WRONG_DIRECTION}


def test_short_mapping(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, PAGE)
    assert bugs_after(device, oracle, True, PAGE, PAGE + 1) == {Bug.SHORT_MAPPING}
    assert "mapped up to 0x2000" in oracle.report()


def test_short_mapping_with_a_neighbour_of_another_direction(
    device: Device, oracle: DmaOracle
) -> None:
    map_pages(device, PAGE)
    map_pages(device, 2 * PAGE, access=Access.READ)
    assert bugs_after(device, oracle, True, PAGE, 2 * PAGE) == {Bug.SHORT_MAPPING}


def test_forgotten_mask(device: Device, oracle: DmaOracle) -> None:
    map_pages(device, 0xFFFF_F000)
    assert bugs_after(device, oracle, False, 0x0FFF_F010, 8) == {Bug.FORGOTTEN_MASK}


def test_restart_forgets(device: Device, oracle: DmaOracle) -> None:
    bugs_after(device, oracle, False, PAGE, 8)
    device.trigger(IrqType.MSIX, 0)
    assert (oracle.bugs, oracle.interrupts) == ({Bug.WILD_ADDRESS}, 1)
    oracle.restart()
    assert (oracle.bugs, oracle.interrupts, oracle.accesses) == (set(), 0, [])


# ---- the guest's trace -----------------------------------------------------------

TRACE = """\
# tracer: nop
 insmod-9 [000] d..1. 1.0: dma_alloc: 0000:00:05.0 dir=BIDIRECTIONAL dma_addr=f000 size=8 virt_addr=0 flags=GFP_KERNEL attrs=
 sh-10 [000] ..... 2.0: dma_map_page: 0000:00:05.0 dir=TO_DEVICE dma_addr=10000 size=100 phys_addr=33000 attrs=
 sh-10 [000] ..... 2.1: dma_map_page: 0000:00:06.0 dir=TO_DEVICE dma_addr=90000 size=100 phys_addr=33000 attrs=
 sh-10 [000] ..... 2.2: dma_map_page: 0000:00:05.0 dir=FROM_DEVICE dma_addr=20000 size=100 phys_addr=34000 attrs=
 <idle>-0 [000] d.h1. 3.0: irq_handler_entry: irq=25 name=mine
 sh-10 [000] ..... 4.0: dma_sync_single_for_cpu: 0000:00:05.0 dir=FROM_DEVICE dma_addr=20000 size=100
 <idle>-0 [000] d.h1. 5.0: irq_handler_entry: irq=25 name=mine
 sh-10 [000] ..... 6.0: dma_unmap_page: 0000:00:05.0 dir=FROM_DEVICE dma_addr=20000 size=100 attrs=
"""  # noqa: E501
READ, FIRST, SECOND = (
    DeviceAccess(0x10000, 100, False, 0),
    DeviceAccess(0x20000, 100, True, 0),
    DeviceAccess(0x20000, 100, True, 1),
)


def mappings(text: str = TRACE) -> list[ApiMapping]:
    return mappings_of(text.splitlines(), "0000:00:05.0", "mine")


def bugs(*accesses: DeviceAccess, text: str = TRACE, syncs: bool = True) -> list[Bug]:
    return [finding.bug for finding in judge(accesses, mappings(text), 28, syncs)]


def test_a_trace_is_read() -> None:
    record, source, destination = mappings()
    assert (record.coherent, record.end > 100) == (True, True)
    assert (source.direction, source.begin, source.end > 100) == ("TO_DEVICE", 0, True)
    assert (destination.taken, destination.end) == ([1], 2)


def test_a_correct_driver() -> None:
    assert bugs(READ, FIRST, SECOND) == []


def test_a_missing_sync() -> None:
    without = "\n".join(line for line in TRACE.splitlines() if "sync" not in line)
    assert bugs(READ, FIRST, SECOND, text=without) == [Bug.MISSING_SYNC]
    assert bugs(READ, FIRST, SECOND, text=without, syncs=False) == []
    assert bugs(READ, FIRST, text=without) == []


def test_directions_and_sizes_to_the_byte() -> None:
    assert bugs(DeviceAccess(0x10000, 100, True, 0)) == [Bug.WRONG_DIRECTION]
    assert bugs(DeviceAccess(0x20000, 101, True, 0)) == [Bug.SHORT_MAPPING]
    assert bugs(DeviceAccess(0xF000, 8, True, 0)) == []


def test_an_unmap_counts_only_where_an_interrupt_lies_between() -> None:
    assert bugs(DeviceAccess(0x20000, 100, True, 2)) == []
    assert bugs(DeviceAccess(0x20000, 100, True, 3)) == [Bug.USE_AFTER_UNMAP]


# A list of three entries, which an IOMMU has made two of.
SCATTERED = """\
 sh-10 [000] ..... 2.0: dma_map_sg_err: 0000:00:05.0 dir=FROM_DEVICE dma_addrs={0x33000} err=-12 attrs=
 sh-10 [000] ..... 2.0: dma_map_sg: 0000:00:05.0 dir=FROM_DEVICE nents=3/3 ents=2/2 dma_addrs={0x20000,0x40000} sizes={0x2000,0x64} phys_addrs={0x33000,0x34000,0x77000} attrs=
 sh-10 [000] ..... 2.1: dma_map_sg: 0000:00:05.0 dir=TO_DEVICE nents=1/1 ents=1/1 dma_addrs={0x60000} sizes={0x64} phys_addrs={0x99000} attrs=
 <idle>-0 [000] d.h1. 3.0: irq_handler_entry: irq=25 name=mine
 sh-10 [000] ..... 4.0: dma_sync_sg_for_cpu: 0000:00:05.0 dir=FROM_DEVICE dma_addrs={0x20000,0x40000,0x0} sizes={0x2000,0x64,0x0}
 sh-10 [000] ..... 4.1: dma_sync_sg_for_cpu: 0000:00:05.0 dir=TO_DEVICE dma_addrs={0x60000} sizes={0x64}
 sh-10 [000] ..... 4.2: dma_sync_sg_for_device: 0000:00:05.0 dir=TO_DEVICE dma_addrs={0x60000} sizes={0x64}
 <idle>-0 [000] d.h1. 5.0: irq_handler_entry: irq=25 name=mine
 sh-10 [000] ..... 6.0: dma_unmap_sg: 0000:00:05.0 dir=FROM_DEVICE phys_addrs={0x33000,0x34000,0x77000} attrs=
"""  # noqa: E501
SENT = [DeviceAccess(0x60000, 100, False, interrupts) for interrupts in range(3)]


def test_scatter_lists() -> None:
    joined, last, sent = mappings(SCATTERED)
    assert [(m.address, m.size, m.taken, m.given, m.end) for m in (joined, last)] == [
        (0x20000, 0x2000, [1], [], 2),
        (0x40000, 0x64, [1], [], 2),
    ]
    assert (sent.taken, sent.given, sent.end > 100) == ([1], [1], True)
    writes = [DeviceAccess(0x20FFC, 8, True, 0), DeviceAccess(0x40000, 100, True, 1), *SENT]
    assert bugs(*writes, text=SCATTERED) == []
    assert bugs(DeviceAccess(0x40000, 101, True, 0), text=SCATTERED) == [Bug.SHORT_MAPPING]
    assert bugs(DeviceAccess(0x40000, 100, True, 3), text=SCATTERED) == [Bug.USE_AFTER_UNMAP]
    assert bugs(DeviceAccess(0x40000, 100, False, 1), text=SCATTERED) == [Bug.WRONG_DIRECTION]


def without(call: str) -> str:
    return "\n".join(line for line in SCATTERED.splitlines() if call not in line)


def test_ownership_of_scatter_lists() -> None:
    twice = [DeviceAccess(0x40000, 100, True, interrupts) for interrupts in range(2)]
    assert bugs(*twice, text=SCATTERED) == []
    assert bugs(*twice, text=without("dma_sync_sg_for_cpu")) == [Bug.MISSING_SYNC]


def test_what_the_cpu_keeps_is_not_read() -> None:
    kept = without("dma_sync_sg_for_device")
    # The second read may have come before the CPU took it; the third did not.
    assert bugs(*SENT, text=kept) == [Bug.MISSING_SYNC]
    assert bugs(*SENT[:2], text=kept) == []
    # Without a word of the CPU's, it may send the same twice.
    assert bugs(*SENT, text=without("dma_sync")) == []


@pytest.mark.parametrize(
    "rest",
    [
        "nents=2/2 ents=2/2",
        "nents=128/200 ents=128/200 [TRUNCATED] dma_addrs={0x1000} sizes={0x8} phys_addrs={0x1}",
        "dma_addrs={0x1000,0x2000} sizes={0x8}",
    ],
)
def test_what_is_not_understood_is_no_verdict(rest: str) -> None:
    line = f" sh-1 [000] ..... 1.0: dma_map_sg: 0000:00:05.0 dir=TO_DEVICE {rest}"
    with pytest.raises(TraceUnclear, match="dma_map_sg"):
        mappings(line)
    assert issubclass(TraceUnclear, LabError)
