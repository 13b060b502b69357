"""The DMA engine against memcpy and zlib over one buffer."""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from pyvfio_user import Access, DmaTable, SharedMemory
from vdxgk.channel import layout
from vdxgk.engine import DescriptorPath, Engine, MemoryPath
from vdxgk_lab.bench.figures import Figure, Measure, compare

SIZE = 64 << 20
PAGE = 4096
SOURCE = 1 << 32
DESTINATION = 2 << 32
RW = Access.READ | Access.WRITE


def timed(work: Callable[[], object]) -> Measure:
    """Seconds that `work` takes."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


class _Bench:
    """Two buffers of guest memory, mapped page by page in an order of choice."""

    def __init__(self, scattered: bool) -> None:
        self.memories = [SharedMemory(SIZE, "bench-source"), SharedMemory(SIZE, "bench-target")]
        table = DmaTable()
        for base, memory in zip((SOURCE, DESTINATION), self.memories, strict=True):
            memory.view[:] = bytes(range(256)) * (SIZE // 256)
            if not scattered:
                table.map(base, SIZE, RW, os.dup(memory.fd), 0)
                continue
            pages = list(range(0, SIZE, PAGE))
            random.Random(1).shuffle(pages)
            for position, offset in enumerate(pages):
                table.map(base + position * PAGE, PAGE, RW, os.dup(memory.fd), offset)
        path: MemoryPath = DescriptorPath(table)
        self.engine = Engine(path, path, dma_bits=64, bus_master=lambda: True)
        self.table = table

    def execute(self, op: int) -> None:
        completion = self.engine.execute(
            layout.EngineCommand(op=op, source=SOURCE, destination=DESTINATION, size=SIZE)
        )
        assert completion.done == SIZE

    def close(self) -> None:
        self.table.clear()
        for memory in self.memories:
            memory.close()


def run(repetitions: int) -> Iterator[Figure]:
    """Copy and CRC32, contiguous and scattered over 16,384 pages."""
    source = np.ones(SIZE, dtype=np.uint8)
    target = np.zeros(SIZE, dtype=np.uint8)
    memcpy = timed(lambda: np.copyto(target, source))
    crc32 = timed(lambda: zlib.crc32(source.data))
    for scattered, word, copy_budget, crc_budget in (
        (False, "contiguous", 1 / 0.9, None),
        (True, "16,384 pages", 1 / 0.5, 1 / 0.8),
    ):
        bench = _Bench(scattered)
        try:
            copy = timed(lambda bench=bench: bench.execute(layout.ENGINE_COPY))  # type: ignore[misc]
            check = timed(lambda bench=bench: bench.execute(layout.ENGINE_CRC32))  # type: ignore[misc]
            yield compare(
                f"engine copy, 64 MiB, {word}", "memcpy", (memcpy, copy), repetitions, copy_budget
            )
            yield compare(
                f"engine CRC32, 64 MiB, {word}", "zlib", (crc32, check), repetitions, crc_budget
            )
        finally:
            bench.close()
