"""After an unmap: what the device still reaches, by the guest kernel's own rules for each mode.

`vdxgk staleness` measures for how long; here it matters whether, and that it ends.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.audit import history, log, reach, report
from vdxgk_lab.audit.history import Class, Fate
from vdxgk_lab.command_line import Iommu, MachineConfig
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.staleness import measure
from vdxgk_lab.staleness.device import PATHS
from vdxgk_lab.staleness.measure import DOMAINS, Distribution
from vdxgk_lab.trees import DEFAULT_KERNEL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SAMPLES = 12
TRAFFIC = 8
PAGE = 4096
BURST = 8
"""Pages that the module's traffic has mapped at once."""
READ_ONLY, BOTH = 1, 3


def assert_every_page_went(found: Distribution) -> None:
    """Each was within reach, then was not, and stayed so."""
    assert len(found.samples) == SAMPLES
    for sample in found.samples:
        assert sample.last_hit < sample.refused
        assert not sample.came_back
        assert sample.unmapping < sample.unmapped
        if sample.path == "descriptors":
            # What ends it for descriptors is QEMU's announcement, and nothing else.
            assert sample.announced is not None
            assert sample.last_hit <= sample.announced


def assert_strict(found: Distribution) -> None:
    """Out of reach before the unmap returned: no read that began later succeeded."""
    assert_every_page_went(found)
    assert found.stale_samples == 0
    assert all(sample.foreign_reads == 0 for sample in found.samples)


@pytest.mark.parametrize(
    ("iommu", "lazy", "group_type"),
    [
        ("virtio", False, "DMA"),
        ("virtio", True, "DMA-FQ"),
        # With caching mode, which the device needs, Linux refuses to be lazy.
        ("intel", True, "DMA"),
    ],
    ids=["virtio-iommu, strict", "virtio-iommu, lazy", "intel-iommu, lazy asked for"],
)
def test_access_after_unmap_in_each_mode(
    vdxgk_artifacts: Artifacts,
    vdxgk_run: RunDirectory,
    iommu: Iommu,
    lazy: bool,
    group_type: str,
) -> None:
    path = vdxgk_run.path / "traffic.audit"
    config = MachineConfig(iommu=iommu, memory=512 << 20)
    with measure.open_laboratory(
        config, DEFAULT_KERNEL, vdxgk_artifacts, vdxgk_run.path, lazy=lazy, audit=path
    ) as laboratory:
        stale = 0
        for domain in DOMAINS:
            for way in PATHS.values():
                found = laboratory.measure(domain, way, SAMPLES)
                assert found.group_type == group_type
                # A domain of the driver's own is never lazy: the flush queue is the DMA API's.
                if domain == "own" or group_type == "DMA":
                    assert_strict(found)
                else:
                    assert_every_page_went(found)
                    stale += found.stale_samples
        # The opposite: what strict invalidation prevents does happen without it.
        assert (stale > 0) == (group_type == "DMA-FQ")
        laboratory.mark("traffic")
        laboratory.load("traffic_us=200", samples=TRAFFIC)
        laboratory.mark("over")
    assert_the_audit_knows_the_traffic(path, strict=group_type == "DMA")


def assert_the_audit_knows_the_traffic(path: Path, *, strict: bool) -> None:
    """What the guest's module mapped, as it mapped it; all of it was unmapped."""
    found = log.read(path)
    moments = {text: time for time, text in found.marks()}
    past = history.replay(found)
    pieces = past.pieces[past.pieces["born"] > moments["traffic"]]
    pieces = pieces[pieces["born"] < moments["over"]]
    assert len(pieces) == TRAFFIC * BURST
    assert set(pieces["kind"]) == {Class.TRANSLATED}
    assert set(pieces["last"] - pieces["first"]) == {PAGE - 1}
    assert sorted(pieces["access"]) == [READ_ONLY] * (len(pieces) // 2) + [BOTH] * (
        len(pieces) // 2
    )
    assert len(set(pieces["physical"])) == BURST
    assert set(pieces["fate"]) == {Fate.UNMAPPED}
    if strict:
        assert reach.mappings(pieces).highest == BURST
    assert report.analyse(found, past).report.never_unmapped == []
