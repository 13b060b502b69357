"""The DMA engine against memcpy and zlib over one buffer."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from pyvfio_user import Access, DmaTable, SharedMemory
from vdxgk.channel import layout
from vdxgk.engine import DescriptorPath, Engine, MemoryPath
from vdxgk_lab import processes
from vdxgk_lab.bench.figures import Figure, Measure, compare, timed

SIZE = 64 << 20
PAGE = 4096
SOURCE = 1 << 32
DESTINATION = 2 << 32
RW = Access.READ | Access.WRITE


class Buffers:
    """Two buffers of guest memory, mapped in one piece or page by page in random order."""

    def __init__(self, scattered: bool, size: int = SIZE) -> None:
        self.size = size
        self.memories = [SharedMemory(size, "bench-source"), SharedMemory(size, "bench-target")]
        self.table = DmaTable()
        for base, memory in zip((SOURCE, DESTINATION), self.memories, strict=True):
            memory.view[:] = bytes(range(256)) * (size // 256)
            if not scattered:
                self.table.map(base, size, RW, os.dup(memory.fd), 0)
                continue
            pages = list(range(0, size, PAGE))
            random.Random(1).shuffle(pages)
            for position, offset in enumerate(pages):
                self.table.map(base + position * PAGE, PAGE, RW, os.dup(memory.fd), offset)
        path: MemoryPath = DescriptorPath(self.table)
        self.engine = Engine(path, path, dma_bits=64, bus_master=lambda: True)

    def execute(self, op: int) -> None:
        """One engine command over all of it."""
        completion = self.engine.execute(
            layout.EngineCommand(op=op, source=SOURCE, destination=DESTINATION, size=self.size)
        )
        assert completion.done == self.size

    def forget(self) -> None:
        """Let the table change, so that it has to translate anew."""
        self.table.map(0, PAGE, RW)
        self.table.unmap(0, PAGE)

    def close(self) -> None:
        """Give the memory back."""
        self.table.clear()
        for memory in self.memories:
            memory.close()


def run(program: Path, repetitions: int) -> Iterator[Figure]:
    """Copy and CRC32, contiguous and scattered over 16,384 pages.

    And what `program`, floor.c, needs for the same pages: what of the ratio is memory's.
    """

    def in_c() -> float:
        command = [str(program), "pages", str(SIZE // PAGE)]
        return int(processes.output(command)) / 1e9

    source = np.ones(SIZE, dtype=np.uint8)
    target = np.zeros(SIZE, dtype=np.uint8)
    memcpy = timed(lambda: np.copyto(target, source))
    crc32 = timed(lambda: zlib.crc32(source.data))
    for scattered, word, copy_budget, crc_budget in (
        (False, "contiguous", 1 / 0.9, None),
        (True, "16,384 pages", 1 / 0.5, 1 / 0.8),
    ):
        with closing(Buffers(scattered)) as buffers:
            copy = timed(partial(buffers.execute, layout.ENGINE_COPY))
            check = timed(partial(buffers.execute, layout.ENGINE_CRC32))
            name = f"engine copy, 64 MiB, {word}"
            yield compare(name, "memcpy", (memcpy, copy), repetitions, copy_budget)
            if scattered:

                def after_change(buffers: Buffers = buffers, copy: Measure = copy) -> float:
                    buffers.forget()
                    return copy()

                yield compare(f"{name}: by a loop in C", "memcpy", (memcpy, in_c), repetitions)
                name += ", new"
                yield compare(name, "memcpy", (memcpy, after_change), repetitions)
            name = f"engine CRC32, 64 MiB, {word}"
            yield compare(name, "zlib", (crc32, check), repetitions, crc_budget)
