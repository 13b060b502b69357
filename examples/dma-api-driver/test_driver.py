"""One driver, once right and once with each of its bugs, which the oracle names."""

from __future__ import annotations

from collections.abc import Callable

from conftest import PCI, Bench
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.dma_oracle import Bug
from vdxgk_lab.dma_trace import DmaTrace

StartBench = Callable[[MachineConfig], Bench]


def test_behind_an_iommu(start_bench: StartBench) -> None:
    """The IOMMU shows what the device may reach, to the page; of ownership it knows nothing."""
    bench = start_bench(MachineConfig(memory=512 << 20, iommu="intel"))
    found = {}
    # Linux remembers a device's mask after its driver has gone: the one without comes first.
    for bug in ("forgotten mask", "right", "use after unmap", "wrong direction", "short mapping"):
        bench.load(bug)
        passed = bench.selftest().ok
        bench.unload()
        found[bug] = (passed, bench.oracle.bugs)
    assert found == {
        "forgotten mask": (False, {Bug.FORGOTTEN_MASK}),
        "right": (True, set()),
        "use after unmap": (False, {Bug.USE_AFTER_UNMAP}),
        "wrong direction": (False, {Bug.WRONG_DIRECTION}),
        "short mapping": (False, {Bug.SHORT_MAPPING}),
    }

    # A scatter list of three pages, which the IOMMU makes one range.
    for bug, expected in (("right", set()), ("use after unmap", {Bug.USE_AFTER_UNMAP})):
        bench.load(bug, scattered=3)
        assert bench.selftest().ok == (not expected)
        bench.unload()
        assert bench.oracle.bugs == expected

    # Memory is coherent here: without its syncs the driver works, and nobody can tell.
    bench.load("missing sync")
    assert bench.selftest().ok
    assert bench.oracle.bugs == set()
    assert not DmaTrace(bench.machine.guest, PCI, "incrementer").sees_syncs


def test_with_bounced_buffers(start_bench: StartBench) -> None:
    """No IOMMU, every buffer bounced: ownership is real, and the guest's kernel traces it."""
    bench = start_bench(
        MachineConfig(memory=256 << 20, iommu="none", kernel_args=("swiotlb=force",))
    )
    trace = DmaTrace(bench.machine.guest, PCI, "incrementer")
    assert trace.sees_syncs
    found = {}
    for bug in ("right", "missing sync", "kept", "wrong direction", "short mapping"):
        for scattered in (0, 1):  # a list of one piece: nothing joins bounced pages
            trace.start()
            bench.load(bug, scattered)
            passed = bench.selftest().ok
            bench.unload()
            trace.judge(bench.oracle)
            found[bug, scattered] = (passed, bench.oracle.bugs)
    # The device reaches all of memory: only the oracle says that a direction is
    # wrong or a mapping short, unless the driver looks at its data.
    for scattered in (0, 1):
        assert found["right", scattered] == (True, set())
        for bug in ("missing sync", "kept"):
            assert found[bug, scattered] == (False, {Bug.MISSING_SYNC})
        assert found["wrong direction", scattered][1] >= {Bug.WRONG_DIRECTION}
        assert found["short mapping", scattered][1] >= {Bug.SHORT_MAPPING}
