"""MSI-X: every vector, masked and unmasked, and translated as the DMA that it is.

The vectors write to guest memory, where their messages can be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio_user import IrqType
from tests.qtest.lane import BUFFER, Lane
from vdxgk.channel import layout
from vdxgk_lab.qtest.iommu import PAGE
from vdxgk_lab.qtest.msix import Msix

LOGICAL = 0x2_2340_0000
NOTHING = bytes(4)


def _engine(lane: Lane) -> None:
    lane.gpu.want_interrupt(layout.RING_COMMAND_COMPLETIONS)
    assert lane.gpu.engine(op=layout.ENGINE_NOP).status == 0


def _channel(lane: Lane) -> None:
    lane.gpu.want_interrupt(layout.RING_COMPLETIONS)
    assert lane.gpu.request(999).status != 0


def _event(lane: Lane) -> None:
    lane.gpu.want_interrupt(layout.RING_EVENTS)
    # Far beyond guest memory.
    assert lane.dma_write(1 << 45, 8, 1).status != 0


CAUSES: dict[int, Callable[[Lane], None]] = {
    layout.VECTOR_CHANNEL: _channel,
    layout.VECTOR_EVENT: _event,
    layout.VECTOR_ENGINE: _engine,
}


@pytest.mark.parametrize("vector", CAUSES, ids=["channel", "event", "engine"])
def test_every_vector(idle_lane: Lane, vector: int) -> None:
    lane = idle_lane
    _set_up(lane, BUFFER)
    CAUSES[vector](lane)
    _wait(lane, vector)
    for other in set(CAUSES) - {vector}:
        assert _seen(lane, other) == NOTHING


def test_no_interrupt_that_was_not_asked_for(idle_lane: Lane) -> None:
    lane = idle_lane
    _set_up(lane, BUFFER)
    assert lane.gpu.engine(op=layout.ENGINE_NOP).status == 0
    # By then QEMU has looked at every vector.
    _channel(lane)
    _wait(lane, layout.VECTOR_CHANNEL)
    assert _seen(lane, layout.VECTOR_ENGINE) == NOTHING


def test_a_masked_vector_waits_and_comes_when_unmasked(idle_lane: Lane) -> None:
    lane = idle_lane
    msix = _set_up(lane, BUFFER)
    msix.mask(layout.VECTOR_ENGINE, True)
    _engine(lane)
    _channel(lane)
    _wait(lane, layout.VECTOR_CHANNEL)
    assert _seen(lane, layout.VECTOR_ENGINE) == NOTHING
    msix.mask(layout.VECTOR_ENGINE, False)
    _wait(lane, layout.VECTOR_ENGINE)


def test_vectors_are_gone_after_a_reset(idle_lane: Lane) -> None:
    lane = idle_lane
    _set_up(lane, BUFFER)
    lane.restart()
    assert not lane.adapter.device.trigger(IrqType.MSIX, layout.VECTOR_ENGINE)


def test_a_message_is_translated_and_refused_like_any_write(lane: Lane) -> None:
    """An interrupt is a write: without a translation it goes nowhere, and the IOMMU tells."""
    lane.qtest.fill(BUFFER, PAGE, 0)
    _set_up(lane, LOGICAL)
    _engine(lane)
    lane.qtest.wait_for(lambda: bool(lane.iommu.faults()), "the IOMMU logs a fault")
    assert lane.qtest.read(BUFFER, PAGE) == bytes(PAGE)
    # The opposite.
    lane.iommu.map(LOGICAL, BUFFER, PAGE)
    _engine(lane)
    _wait(lane, layout.VECTOR_ENGINE)


def _set_up(lane: Lane, target: int) -> Msix:
    """Vector n writes n + 1 to word n of a page."""
    lane.qtest.fill(BUFFER, PAGE, 0)
    msix = Msix(lane.qtest, lane.gpu.function)
    msix.enable()
    for vector in CAUSES:
        msix.set(vector, target + 4 * vector, vector + 1)
    return msix


def _seen(lane: Lane, vector: int) -> bytes:
    return lane.qtest.read(BUFFER + 4 * vector, 4)


def _wait(lane: Lane, vector: int) -> None:
    message = (vector + 1).to_bytes(4, "little")
    lane.qtest.wait_for(lambda: _seen(lane, vector) == message, f"vector {vector}")
