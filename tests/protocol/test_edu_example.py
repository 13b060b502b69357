"""The edu example, driven as its specification says."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio_user import Client
from pyvfio_user.wire import Command
from tests.waiting import readable

from .examples import running

STATUS, INTERRUPT_STATUS, RAISE, ACKNOWLEDGE, COMMAND = 0x20, 0x24, 0x60, 0x64, 0x98
MIB = 1 << 20


class Driver:
    """What a guest's driver would do."""

    def __init__(self, path: str) -> None:
        self.messages: list[tuple[int, int]] = []  # DMA that came by message
        self.memory = os.memfd_create("guest")
        os.ftruncate(self.memory, MIB)
        self.interrupt = os.eventfd(0)
        self.client = Client(path, respond=self.respond)
        self.client.negotiate()
        self.client.assign_eventfds(2, 0, [self.interrupt])
        self.client.dma_map(0x100000, MIB, descriptor=self.memory)
        self.client.dma_map(0x800000, 0x1000)  # no descriptor: by messages
        self.client.region_write(7, 4, b"\x06\x00")  # memory, bus master

    def respond(self, command: Command, address: int, count: int, data: bytes) -> bytes:
        self.messages.append((command, address))
        if command is Command.DMA_READ:
            return os.pread(self.memory, count, address - 0x800000)
        os.pwrite(self.memory, data, address - 0x800000)
        return b""

    def read(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.client.region_read(0, offset, size), "little")

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.client.region_write(0, offset, value.to_bytes(size, "little"))

    def wait_for_interrupt(self) -> int:
        """Wait, answering DMA messages; return and acknowledge what raised it."""
        while not readable(self.interrupt, 0):
            self.read(STATUS)  # whoever waits for an answer answers too
        os.eventfd_read(self.interrupt)
        reasons = self.read(INTERRUPT_STATUS)
        self.write(ACKNOWLEDGE, reasons)
        assert self.read(INTERRUPT_STATUS) == 0
        return reasons

    def transfer(self, source: int, destination: int, count: int, command: int) -> int:
        for offset, value in ((0x80, source), (0x88, destination), (0x90, count)):
            self.write(offset, value, 8)
        self.write(COMMAND, command | 4)
        reasons = self.wait_for_interrupt()
        assert not self.read(COMMAND) & 1
        return reasons

    def close(self) -> None:
        self.client.close()
        os.close(self.memory)
        os.close(self.interrupt)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    path = str(tmp_path / "edu.sock")
    with running("edu", path):
        driver = Driver(path)
        yield driver
        driver.close()


def test_registers(driver: Driver) -> None:
    assert driver.read(0) == 0x010000ED
    driver.write(4, 0x12345678)
    assert driver.read(4) == 0xEDCBA987
    assert driver.read(0, 1) == 0xFF, "only 4 bytes below 0x80"
    assert driver.client.region_read(0, 0x40000, 4) == b"\xff" * 4
    driver.write(RAISE, 0x21)
    assert driver.wait_for_interrupt() == 0x21


@pytest.mark.parametrize("number", [0, 1, 5, 12, 20, 33, 34, 0xFFFFFFFF])
def test_factorial(driver: Driver, number: int) -> None:
    driver.write(STATUS, 0x80)
    driver.write(8, number)
    assert driver.wait_for_interrupt() == 1
    assert driver.read(STATUS) == 0x80
    assert driver.read(8) == math.factorial(min(number, 40)) & 0xFFFFFFFF


@pytest.mark.parametrize("base", [0x100000, 0x800000], ids=["descriptor", "messages"])
def test_dma_both_ways(driver: Driver, base: int) -> None:
    data = bytes(range(1, 101))
    os.pwrite(driver.memory, data, 0)
    assert driver.transfer(base, 0x40000 + 3996, 100, 1) == 0x100
    assert driver.transfer(0x40000 + 3996, base + 100, 100, 3) == 0x100
    assert os.pread(driver.memory, 201, 0) == data + data + b"\0"
    expected = [(11, base), (12, base + 100)] if base == 0x800000 else []
    assert driver.messages == expected


@pytest.mark.parametrize(
    ("address", "inner", "count"),
    [
        (0x100000, 0x40000, 4097),
        (0x100000, 0x3FFFF, 1),
        (0x100000, 0x41000, 1),
        (0x100000, 0x40000, 1 << 63),
        (0x700000, 0x40000, 16),  # nothing there
        (0x1FFFFF, 0x40000, 2),
    ],
)
def test_what_it_cannot_transfer_it_drops(
    driver: Driver, address: int, inner: int, count: int
) -> None:
    os.pwrite(driver.memory, b"\xaa" * MIB, 0)
    assert driver.transfer(inner, address, count, 3) == 0x100
    assert driver.transfer(address, inner, count, 1) == 0x100
    assert os.pread(driver.memory, MIB, 0) == b"\xaa" * MIB


def test_addresses_have_28_bits(driver: Driver) -> None:
    os.pwrite(driver.memory, b"here", 0)
    driver.transfer((1 << 28) + 0x100000, 0x40000, 4, 1)
    driver.transfer(0x40000, 0x100010, 4, 3)
    assert os.pread(driver.memory, 4, 0x10) == b"here"


def test_without_bus_mastering_nothing_moves(driver: Driver) -> None:
    os.pwrite(driver.memory, b"data", 0)
    driver.client.region_write(7, 4, b"\x02\x00")
    driver.transfer(0x100000, 0x40000, 4, 1)
    driver.client.region_write(7, 4, b"\x06\x00")
    driver.transfer(0x40000, 0x100010, 4, 3)
    assert os.pread(driver.memory, 4, 0x10) == bytes(4)


def test_reset(driver: Driver) -> None:
    os.pwrite(driver.memory, b"data", 0)
    driver.transfer(0x100000, 0x40000, 4, 1)
    driver.write(RAISE, 8)
    driver.client.reset()
    driver.client.region_write(7, 4, b"\x06\x00")
    assert driver.read(INTERRUPT_STATUS) == 0
    assert driver.read(0) == 0x010000ED
    os.eventfd_read(driver.interrupt)
    driver.transfer(0x40000, 0x100010, 4, 3)
    assert os.pread(driver.memory, 4, 0x10) == bytes(4)
