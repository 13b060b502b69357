"""MSI-X through VT-d's interrupt remapping: what arrives at the processor, and what does not.

No processor runs; its local APIC still notes which vectors were requested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.qtest.lane import REQUESTER, Lane, open_lane
from tests.qtest.test_interrupts import CAUSES
from vdxgk.channel import layout
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.msix import Msix
from vdxgk_lab.qtest.vtd import IntelIommu
from vdxgk_lab.qtest.vtd_interrupts import (
    ENTRY_NOT_PRESENT,
    WRONG_SOURCE,
    InterruptRemapping,
)
from vdxgk_lab.run_directory import RunDirectory

FIRST = 0x41
"""A vector of the processor's for each of the function's, from here on."""


@dataclass
class Remapped:
    """The adapter behind an IOMMU that translates and remaps."""

    lane: Lane
    iommu: IntelIommu
    remapping: InterruptRemapping
    msix: Msix

    def requested(self) -> set[int]:
        return self.lane.machine.requested_vectors()

    def wait(self, vector: int) -> None:
        self.lane.qtest.wait_for(lambda: vector in self.requested(), f"vector {vector}")

    def wait_for_fault(self, reason: int) -> None:
        found: list[tuple[int, int]] = []

        def logged() -> bool:
            found.extend((fault.requester, fault.reason) for fault in self.iommu.faults())
            return bool(found)

        self.lane.qtest.wait_for(logged, "the IOMMU logs a fault")
        assert set(found) == {(REQUESTER, reason)}


@pytest.fixture
def remapped(qemu: QemuBinary, vdxgk_run: RunDirectory) -> Iterator[Remapped]:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, IntelIommu)
        lane.iommu.enable()
        remapping = InterruptRemapping(lane.qtest, lane.frames, lane.iommu.registers)
        remapping.enable()
        msix = Msix(lane.qtest, lane.gpu.function)
        msix.enable()
        for vector in CAUSES:
            remapping.set(vector, FIRST + vector, REQUESTER)
            msix.set(vector, remapping.address(vector), 0)
        yield Remapped(lane, lane.iommu, remapping, msix)


@pytest.mark.parametrize("vector", CAUSES, ids=["channel", "event", "engine"])
def test_every_vector_is_remapped(remapped: Remapped, vector: int) -> None:
    assert remapped.requested() == set()
    CAUSES[vector](remapped.lane)
    remapped.wait(FIRST + vector)
    assert remapped.requested() == {FIRST + vector}


def test_a_masked_vector_waits_with_remapping_on(remapped: Remapped) -> None:
    engine, channel = layout.VECTOR_ENGINE, layout.VECTOR_CHANNEL
    remapped.msix.mask(engine, True)
    CAUSES[engine](remapped.lane)
    CAUSES[channel](remapped.lane)
    remapped.wait(FIRST + channel)
    assert FIRST + engine not in remapped.requested()
    remapped.msix.mask(engine, False)
    remapped.wait(FIRST + engine)


def _not_present(remapped: Remapped) -> None:
    remapped.remapping.clear(layout.VECTOR_ENGINE)


def _anothers(remapped: Remapped) -> None:
    remapped.remapping.set(layout.VECTOR_ENGINE, FIRST + layout.VECTOR_ENGINE, REQUESTER + 8)


@pytest.mark.parametrize(
    ("forbid", "reason"),
    [(_not_present, ENTRY_NOT_PRESENT), (_anothers, WRONG_SOURCE)],
    ids=["no entry", "the entry of another function"],
)
def test_an_interrupt_that_was_not_granted_is_refused(
    remapped: Remapped, forbid: Callable[[Remapped], None], reason: int
) -> None:
    engine = layout.VECTOR_ENGINE
    forbid(remapped)
    CAUSES[engine](remapped.lane)
    remapped.wait_for_fault(reason)
    assert remapped.requested() == set()
    # The opposite: with an entry of its own, the same message arrives.
    remapped.remapping.set(engine, FIRST + engine, REQUESTER)
    CAUSES[engine](remapped.lane)
    remapped.wait(FIRST + engine)
