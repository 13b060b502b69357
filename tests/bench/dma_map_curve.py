"""Whether DMA_MAP and DMA_UNMAP of a page stay flat as mappings accumulate.

    python tests/bench/dma_map_curve.py

For each way (the table alone, the table behind a session; `vdxgk bench` has a served
device) there are two devices: one with 1,000 mappings of a file and one with 60,000.
Blocks of 100 more pages are mapped and unmapped in one and in the other by turns, so
that what else the machine does hits both.
Figures are microseconds, medians over the blocks, and the median of the rate at
60,000 over the rate at 1,000.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvfio_user import Access, ConfigSpace, Device, SharedMemory, wire
from pyvfio_user.session import Session
from pyvfio_user.version import Capabilities

PAGE = 0x1000
FEW, MANY = 1000, 60_000
BLOCK, BLOCKS = 100, 61
READ_WRITE = Access.READ | Access.WRITE
GREETING = wire.request(0, wire.Command.VERSION, b'\0\0\0\0{"capabilities":{}}\0')

Map = Callable[[int, int], object]  # a page number, and a descriptor that is taken over
Unmap = Callable[[int], object]  # a page number
Way = Callable[[int], contextlib.AbstractContextManager[tuple[Map, Unmap]]]


class Quiet:
    """A logger."""

    def info(self, event: str, **values: object) -> None:
        """Drop it."""

    warning = info
    error = info


def map_message(page: int) -> bytes:
    """DMA_MAP of a page."""
    payload = wire.DMA_MAP.pack(wire.DMA_MAP.size, 3, page * PAGE, page * PAGE, PAGE)
    return wire.request(1, wire.Command.DMA_MAP, payload)


def unmap_message(page: int) -> bytes:
    """DMA_UNMAP of a page."""
    payload = wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, page * PAGE, PAGE)
    return wire.request(1, wire.Command.DMA_UNMAP, payload)


@contextmanager
def table(_memory: int) -> Iterator[tuple[Map, Unmap]]:
    """The table alone."""
    dma = Device(ConfigSpace(1, 2, 3), {}).dma
    yield (
        lambda page, copy: dma.map(page * PAGE, PAGE, READ_WRITE, copy, page * PAGE),
        lambda page: dma.unmap(page * PAGE, PAGE),
    )
    dma.clear()


@contextmanager
def session(_memory: int) -> Iterator[tuple[Map, Unmap]]:
    """The table behind the protocol, without a socket."""
    offer = Capabilities(16, 1 << 17, True)
    device = Device(ConfigSpace(1, 2, 3), {})
    answering = Session(device, Quiet(), lambda _message: None, offer=offer)

    def feed(message: bytes, descriptors: list[int] | None = None) -> None:
        answering.connection.get_buffer()[: len(message)] = message
        answering.receive(len(message), descriptors)

    feed(GREETING)
    yield lambda page, copy: feed(map_message(page), [copy]), lambda page: feed(unmap_message(page))
    answering.lost()


def timed(steps: tuple[Map, Unmap], pages: list[int], memory: int) -> tuple[float, float]:
    """Map pages and unmap them: microseconds for each."""
    map_, unmap = steps
    copies = [os.dup(memory) for _ in pages]
    began = time.perf_counter()
    for page, copy in zip(pages, copies, strict=True):
        map_(page, copy)
    between = time.perf_counter()
    for page in pages:
        unmap(page)
    ended = time.perf_counter()
    return (between - began) / len(pages) * 1e6, (ended - between) / len(pages) * 1e6


def curve(name: str, way: Way, pages: list[int], memory: int) -> None:
    """Compare the two sizes and print a line."""
    more = pages[MANY:]
    with way(memory) as few, way(memory) as many:
        for steps, count in ((few, FEW), (many, MANY)):
            for page in pages[:count]:
                steps[0](page, os.dup(memory))
        blocks = []
        for number in range(BLOCKS):
            block = more[number * BLOCK % (len(more) - BLOCK) :][:BLOCK]
            blocks.append(timed(few, block, memory) + timed(many, block, memory))
    line = f"{name:20}"
    for what, at in (("map", 0), ("unmap", 1)):
        small, large = ([block[at + 2 * which] for block in blocks[1:]] for which in (0, 1))
        rates = [a / b for a, b in zip(small, large, strict=True)]
        line += (
            f"{what} {statistics.median(small):6.1f} -> {statistics.median(large):6.1f} us, "
            f"{statistics.median(rates):4.2f} of the rate   "
        )
    print(line, flush=True)


def main() -> None:
    """Print the table."""
    ascending = list(range(MANY + 5000))
    mixed = ascending.copy()
    random.Random(1).shuffle(mixed)
    with SharedMemory(len(ascending) * PAGE, "guest") as memory:
        for name, pages in (("ascending", ascending), ("mixed", mixed)):
            for way in (table, session):
                curve(f"{name}, {way.__name__}", way, pages, memory.fd)


if __name__ == "__main__":
    main()
