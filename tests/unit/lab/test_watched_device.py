"""The device that measures staleness counts what it should: played by a client, without a guest."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio_user import Client, SharedMemory
from vdxgk_lab.served import served
from vdxgk_lab.staleness.device import REFUSED, WATCHING, WatchedDevice
from vdxgk_lab.staleness.measure import summary

LIMIT = 60.0
"""Seconds after which a test has failed."""
PAGE = 4096
LOGICAL = 0x7000_0000
ALL64 = (1 << 64) - 1
BY_DESCRIPTORS, UNMAPPING, UNMAPPED = 1, 3, 4


class Driver:
    """The guest's part, by hand."""

    def __init__(self, path: Path, watching: WatchedDevice) -> None:
        self.watching = watching
        self.client = Client(str(path))
        self.client.negotiate()
        self.client.device_info()
        self.ram = SharedMemory(PAGE, "ram")
        # Counts the device's reads: what is waited for is a read, never a time.
        self.reads = itertools.count()
        self.read = 0
        read = watching.device.dma.read

        def counted(address: int, size: int) -> bytes:
            self.read = next(self.reads)
            return read(address, size)

        watching._reads["descriptors"] = counted

    def close(self) -> None:
        self.client.close()
        self.ram.close()

    def map(self) -> None:
        self.client.dma_map(LOGICAL, PAGE, descriptor=self.ram.fd)
        self.put(LOGICAL)
        self.client.region_write(0, 0x00, struct.pack("<Q", LOGICAL))

    def put(self, word: int) -> None:
        self.ram.view[:8] = struct.pack("<Q", word)

    def command(self, value: int) -> None:
        self.client.region_write(0, 0x08, struct.pack("<I", value))

    def wait_for_state(self, state: int) -> None:
        self._wait(lambda: struct.unpack("<I", self.client.region_read(0, 0x0C, 4))[0] == state)

    def wait_for_reads(self, count: int) -> None:
        goal = self.read + count
        self._wait(lambda: self.read >= goal)

    @staticmethod
    def _wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    watching = WatchedDevice()
    watching.start()
    with served(watching.device, tmp_path / "s") as path:
        driver = Driver(path, watching)
        yield driver
        driver.close()
    watching.stop()
    assert threading.active_count() == 1


def test_an_unmap_that_revokes_before_it_returns_is_not_stale(driver: Driver) -> None:
    driver.map()
    driver.command(BY_DESCRIPTORS)
    driver.wait_for_state(WATCHING)
    driver.command(UNMAPPING)
    driver.client.dma_unmap(LOGICAL, PAGE)
    driver.command(UNMAPPED)
    driver.wait_for_state(REFUSED)
    (sample,) = driver.watching.samples
    assert (sample.stale_reads, sample.foreign_reads, sample.stale) == (0, 0, 0.0)
    assert sample.announced is not None
    assert sample.unmapping < sample.announced < sample.unmapped
    assert sample.last_hit < sample.announced
    assert not sample.came_back


def test_an_unmap_that_returns_first_is_stale_and_reads_the_new_owners_data(
    driver: Driver,
) -> None:
    driver.map()
    driver.command(BY_DESCRIPTORS)
    driver.wait_for_state(WATCHING)
    driver.command(UNMAPPING)
    driver.command(UNMAPPED)
    driver.put(~LOGICAL & ALL64)
    driver.wait_for_reads(3)
    driver.client.dma_unmap(LOGICAL, PAGE)
    driver.wait_for_state(REFUSED)
    (sample,) = driver.watching.samples
    assert sample.stale_reads >= 2
    assert sample.foreign_reads >= 1
    assert sample.announced is not None
    assert sample.unmapped < sample.last_hit < sample.announced
    assert sample.stale == (sample.last_hit - sample.unmapped) / 1e9


def test_quantiles_are_values_that_were_measured() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "p99": 3.0, "max": 3.0}
    assert summary([float(n) for n in range(1, 201)]) == {"median": 100.5, "p99": 198.0, "max": 200}
