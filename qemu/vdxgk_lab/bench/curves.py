"""How costs grow with the work: mappings, pages, objects, lists, the size of a frame."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pyvfio_user import DmaTable, SharedMemory
from vdxgk.channel import layout
from vdxgk.memory import ddi
from vdxgk.memory.backend import Backend, StartRequest
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.limits import Quotas
from vdxgk.memory.pages import LARGE_PAGE_SIZE as LARGE
from vdxgk.memory.pages import Range
from vdxgk.memory.remapping import RemapFailure
from vdxgk_lab.bench import frame
from vdxgk_lab.bench.engine import PAGE, RW, Buffers
from vdxgk_lab.bench.figures import timed

Points = list[tuple[float, float]]
T = TypeVar("T")
BASE = 4 << 30
"""Where the guest's memory begins."""
MOST_MEMORY = 256 << 20
"""Bytes of an object with a list."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One plot.  `series` are points (work, cost) by name."""

    name: str
    title: str
    work: str
    cost: str
    series: dict[str, Points]
    logarithmic: bool = False
    """Whether the work grows by factors."""

    def as_json(self) -> dict[str, Any]:
        """Everything, for a history of runs."""
        return {
            "name": self.name,
            "work": self.work,
            "cost": self.cost,
            "series": self.series,
        }


def run(repetitions: int, quick: bool) -> Iterator[Curve]:
    """All that need no guest."""
    scale = 16 if quick else 1
    yield mappings(65_536 // scale, block=256)
    yield pages(repetitions, [4**n for n in range(2, 6 if quick else 9)])
    yield objects(16_384 // scale, block=256)
    yield lists(repetitions, [4**n for n in range(0, 4 if quick else 8)])
    sizes = [(320, 200), (640, 480), (1280, 800), (1920, 1080), (2560, 1440), (3840, 2160)]
    yield frames(repetitions, sizes[:2] if quick else sizes)


def mappings(most: int, block: int) -> Curve:
    """The DMA table as mappings of a page accumulate, in random order."""
    order = list(range(most))
    random.Random(1).shuffle(order)
    table = DmaTable()
    with SharedMemory(most * PAGE, "bench") as memory:

        def add(place: int) -> None:
            table.map(place * PAGE, PAGE, RW, os.dup(memory.fd), place * PAGE)

        map_: Points = []
        unmap: Points = []
        look: Points = []
        for start in range(0, most, block):
            part = order[start : start + block]
            map_.append((start + block, _each(add, part) * 1e6))
            place = part[0] * PAGE
            look.append((start + block, _each(lambda at: table.read(at, 4), [place] * 64) * 1e6))
        for start in range(most - block, -1, -block):
            part = order[start : start + block]
            unmap.append((start, _each(lambda at: table.unmap(at * PAGE, PAGE), part) * 1e6))
        series = {"map": map_, "unmap": unmap[::-1], "read of 4 bytes": look}
    series = {name: _smooth(points) for name, points in series.items()}
    return Curve("mappings", "The DMA table", "mappings there", "µs each", series)


def pages(repetitions: int, counts: list[int]) -> Curve:
    """The engine over scattered pages, as a range has more of them."""
    series: dict[str, Points] = {name: [] for name in ("contiguous", "first time", "again")}
    for count in counts:
        size = count * PAGE
        with closing(Buffers(True, size)) as scattered, closing(Buffers(False, size)) as whole:
            copy = partial(scattered.execute, layout.ENGINE_COPY)

            def anew(scattered: Buffers = scattered, copy: Callable[[], None] = copy) -> None:
                scattered.forget()
                copy()

            copies: tuple[Callable[[], object], ...] = (
                partial(whole.execute, layout.ENGINE_COPY),
                anew,
                copy,
            )
            for points, work in zip(series.values(), copies, strict=True):
                points.append((count, _median(work, repetitions) / count * 1e6))
    return Curve("pages", "Engine copy", "pages in the range", "µs for each page", series, True)


def objects(most: int, block: int) -> Curve:
    """Create and destroy of page objects, as objects accumulate."""
    with closing(_Memory((most + block) * PAGE)) as memory:
        backend = memory.backend
        made: list[tuple[int, int]] = []

        def create(_number: int) -> None:
            made.append(memory.create(PAGE))

        creates: Points = []
        destroys: Points = []
        for start in range(0, most, block):
            creates.append((start + block, _each(create, list(range(block))) * 1e6))
        random.Random(1).shuffle(made)
        for start in range(most - block, -1, -block):
            part = made[start : start + block]
            destroys.append((start, _each(lambda pair: backend.destroy(*pair), part) * 1e6))
    series = {"create": _smooth(creates), "destroy": _smooth(destroys[::-1])}
    return Curve("objects", "Objects of a page, in the backend", "objects there", "µs each", series)


def lists(repetitions: int, counts: list[int]) -> Curve:
    """A list over a whole object: allocated, mapped, checked, freed, in the backend."""
    series: dict[str, Points] = {"page by page": [], "2 MiB each": []}
    for points, page, scattered in zip(
        series.values(), (PAGE, 2 << 20), (True, False), strict=True
    ):
        for count in counts:
            size = count * page
            if size > MOST_MEMORY:
                break
            with closing(_Memory(2 * size + (8 << 20))) as memory:
                _, opening = memory.create(size, scattered=scattered)
                seconds = _median(partial(memory.make_and_free, opening, size), repetitions)
                points.append((count, seconds / count * 1e6))
    return Curve("lists", "Lists, in the backend", "mappings", "µs for each mapping", series, True)


def frames(repetitions: int, sizes: list[tuple[int, int]]) -> Curve:
    """What a viewer's look costs as the screen grows."""
    series: dict[str, Points] = {}
    for width, height in sizes:
        for name, measure in (
            ("nothing changed", frame.nothing_changed),
            ("to RGB", frame.to_rgb),
        ):
            figure = measure(width, height, repetitions)
            for label, seconds in ((name, figure.ours), (figure.against, figure.floor)):
                cost = statistics.median(seconds) / (width * height) * 1e9
                series.setdefault(label, []).append((width * height / 1e6, cost))
    return Curve("frames", "A look at the screen", "megapixels", "ns for each pixel", series)


class _Memory:
    """A backend with an adapter and guest memory, and what a guest does for it."""

    def __init__(self, size: int) -> None:
        size = -(-size // LARGE) * LARGE
        self._memory = SharedMemory(size, "bench-guest")
        self._table = DmaTable()
        held = self._table.map(0, size, RW, os.dup(self._memory.fd), 0).backing
        assert held is not None
        held.acquire()
        self._table.unmap(0, size)
        ram = GuestRam()
        ram.learn(BASE, size, held, 0)
        self.backend = Backend(
            self._table, ram, _Silent(), dma_bits=40, quotas=Quotas(objects=1 << 16)
        )
        self._memory.view[:8] = (7).to_bytes(8, "little")
        self.adapter = self.backend.start_adapter(
            StartRequest(
                highest_visible=(1 << 40) - 1,
                iommu_caps=ddi.IommuCaps.DMA_REMAPPING_SUPPORTED,
                translated=True,
                highest_ram=BASE + size - 1,
                aperture=(0, (1 << 40) - 1),
                probe=(BASE, 7),
                mode=None,
            )
        ).handle
        self.backend.donate([Range(BASE + at, LARGE) for at in range(0, size, LARGE)])

    def create(self, size: int, *, scattered: bool = False) -> tuple[int, int]:
        """An object; its handle and its adapter object's."""
        kind = ddi.PhysicalMemoryType
        args = ddi.CreatePhysicalMemoryObject(
            hAdapter=self.adapter,
            Size=size,
            Type=kind.MDL if scattered else kind.CONTIGUOUS_MEMORY,
            CacheType=ddi.CacheType.CACHED,
        )
        bounds = args.Mdl if scattered else args.ContiguousMemory
        highest = "HighAddress" if scattered else "HighestAcceptableAddress"
        setattr(bounds, highest, (1 << 64) - 1)
        target, _ = self.backend.create(args)
        assert target.opening is not None
        return target.handle, target.opening.handle

    def make_and_free(self, opening: int, size: int) -> None:
        """A list's whole life."""
        adl = self.backend.allocate_adl(opening, 0, size, 0)
        for wanted in adl.mappings:
            place = wanted.physical - BASE
            self._table.map(wanted.logical, wanted.size, RW, os.dup(self._memory.fd), place)
            self.backend.announced(wanted.logical)
        self.backend.commit_adl(opening, adl.handle)
        self.backend.free_adl(opening, adl.handle)
        for wanted in adl.mappings:
            self._table.unmap(wanted.logical, wanted.size)
        self.backend.release_adl(opening, adl.handle)

    def close(self) -> None:
        """Give the memory back."""
        self.backend.ram.release()
        self._table.clear()
        self._memory.close()


class _Silent:
    """A reporter that nobody reads; nothing is to be reported."""

    def remap_failure(self, adl: int, failure: RemapFailure) -> None:
        raise AssertionError(failure)

    def bugcheck(self, code: ddi.Bugcheck, parameter1: int, reason: str) -> None:
        raise AssertionError(reason)

    def exclusive_access(self, begun: bool) -> None:
        raise AssertionError

    def memory_surplus(self) -> None:
        pass


def _each(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Seconds for each of the items."""
    began = time.perf_counter()
    for item in items:
        work(item)
    return (time.perf_counter() - began) / len(items)


def _median(work: Callable[[], object], repetitions: int) -> float:
    measure = timed(work)
    measure()
    return statistics.median(measure() for _ in range(repetitions))


def _smooth(points: Points) -> Points:
    """The median of each point and its neighbours: one disturbance does not show."""
    costs = [cost for _, cost in points]
    return [
        (work, statistics.median(costs[max(0, at - 2) : at + 3]))
        for at, (work, _) in enumerate(points)
    ]
