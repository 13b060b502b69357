"""The register page."""

from __future__ import annotations

import pytest

from vdxgk.channel import layout
from vdxgk.channel.registers import RegisterPage
from vdxgk.faults import Fault, FaultReason, FaultRecord


class Page:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.faults = FaultRecord()
        self.scanout: dict[int, int] = {}
        self.page = RegisterPage(
            self.faults,
            self,
            features=1,
            dma_bits=32,
            framebuffer=16 << 20,
            on_reset=lambda: self.calls.append("reset"),
            on_channel_doorbell=lambda: self.calls.append("channel"),
            on_engine_doorbell=lambda: self.calls.append("engine"),
        )

    def read_register(self, offset: int) -> int:
        return self.scanout.get(offset, 0)

    def write_register(self, offset: int, value: int) -> None:
        self.scanout[offset] = value

    def read(self, offset: int) -> int:
        return int.from_bytes(self.page.read(offset, 4), "little")

    def write(self, offset: int, value: int) -> None:
        self.page.write(offset, value.to_bytes(4, "little"))


@pytest.fixture
def page() -> Page:
    return Page()


def test_constants(page: Page) -> None:
    assert page.read(layout.REG_MAGIC) == layout.MAGIC
    assert page.read(layout.REG_VERSION) == layout.VERSION
    assert page.read(layout.REG_DMA_BITS) == 32
    assert page.read(layout.REG_FRAMEBUFFER_PAGES) == 4096
    page.write(layout.REG_MAGIC, 0)
    assert page.read(layout.REG_MAGIC) == layout.MAGIC


@pytest.mark.parametrize(("offset", "count"), [(0, 1), (0, 2), (0, 8), (2, 4), (1, 4)])
def test_other_accesses_read_all_ones_and_write_nothing(
    page: Page, offset: int, count: int
) -> None:
    assert page.page.read(offset, count) == b"\xff" * count
    page.page.status = layout.STATUS_READY
    page.page.write(layout.REG_CHANNEL_DOORBELL + offset, bytes(count))
    assert page.calls == []


def test_doorbells_ring_only_when_ready(page: Page) -> None:
    page.write(layout.REG_CHANNEL_DOORBELL, 1)
    page.page.status = layout.STATUS_READY
    page.write(layout.REG_ENGINE_DOORBELL, 1)
    page.write(layout.REG_CHANNEL_DOORBELL, 1)
    assert page.calls == ["engine", "channel"]


def test_reset_is_not_ready_at_once(page: Page) -> None:
    page.page.status = layout.STATUS_READY
    page.write(layout.REG_CONTROL, layout.CONTROL_RESET)
    assert page.read(layout.REG_STATUS) == 0
    assert page.calls == ["reset"]


def test_the_fault_register_keeps_the_first_until_cleared(page: Page) -> None:
    page.faults.add(Fault(0x1_2345_6000, 8, True, FaultReason.UNMAPPED))
    page.faults.add(Fault(0x2000, 8, False, FaultReason.FORBIDDEN))
    assert page.read(layout.REG_FAULT_COUNT) == 2
    assert page.read(layout.REG_FAULT_INFO) == (
        layout.FAULT_VALID | layout.FAULT_WRITE | layout.FAULT_UNMAPPED
    )
    assert page.read(layout.REG_FAULT_ADDRESS_LOW) == 0x23456000
    assert page.read(layout.REG_FAULT_ADDRESS_HIGH) == 1
    page.write(layout.REG_FAULT_INFO, layout.FAULT_VALID)
    assert page.read(layout.REG_FAULT_INFO) == 0
    page.faults.add(Fault(0x3000, 8, False, FaultReason.FORBIDDEN))
    assert page.read(layout.REG_FAULT_ADDRESS_LOW) == 0x3000


def test_the_display_pipe_has_registers_of_its_own(page: Page) -> None:
    page.write(layout.REG_SCANOUT_CONTROL, 1)
    assert page.read(layout.REG_SCANOUT_CONTROL) == 0  # the channel is not ready
    page.page.status = layout.STATUS_READY
    page.write(layout.REG_SCANOUT_CONTROL, 5)
    page.write(layout.REG_SCANOUT_CURSOR_POSITION, 0xFFFE0001)
    page.write(layout.REG_SCANOUT_CURSOR_POSITION + 4, 7)
    assert page.scanout == {
        layout.REG_SCANOUT_CONTROL: 5,
        layout.REG_SCANOUT_CURSOR_POSITION: 0xFFFE0001,
    }
    assert page.read(layout.REG_SCANOUT_CURSOR_POSITION) == 0xFFFE0001
