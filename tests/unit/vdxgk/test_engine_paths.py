"""The engine's descriptor path over memory in pieces, against plain bytes."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio_user import Access, DmaTable, SharedMemory
from vdxgk import page_moves
from vdxgk.channel import layout
from vdxgk.engine import DescriptorPath, Engine
from vdxgk.faults import AccessRefused

PAGE = 4096
PAGES = 1200
"""More than a step, and no multiple of a batch."""
SOURCE = 1 << 32
TARGET = 2 << 32
RW = Access.READ | Access.WRITE
MEMORY = "engine-test"


class Machine:
    """One file; two ranges of it in pieces of 1 to ``longest`` pages in a row.

    The one at ``whole`` lies in one piece; the other is of other pages, or of the same
    if they are to be ``shared``.
    """

    def __init__(
        self, descriptor: int, longest: int, *, whole: int = 0, shared: bool = False
    ) -> None:
        seed = 1
        self.table = DmaTable()
        self.descriptor = descriptor
        path = DescriptorPath(self.table)
        self.engine = Engine(path, path, dma_bits=64, bus_master=lambda: True)
        self.file = bytearray(random.Random(seed).randbytes(2 * PAGES * PAGE))
        os.pwrite(descriptor, self.file, 0)
        pieces = []
        choose = random.Random(seed)
        start = 0
        while start < 2 * PAGES:
            pieces.append(range(start, min(start + choose.randint(1, longest), 2 * PAGES)))
            start = pieces[-1].stop
        choose.shuffle(pieces)
        pages = [page for piece in pieces for page in piece]
        self.ranges = {SOURCE: pages[:PAGES], TARGET: pages[PAGES:]}
        if whole:
            first = 0 if shared else PAGES
            other = [page for page in pages if first <= page < first + PAGES]
            self.ranges = {SOURCE: other, TARGET: other, whole: list(range(PAGES))}
        for base, pages in self.ranges.items():
            for position, page in enumerate(pages):
                self.map(base + position * PAGE, page)

    def map(self, iova: int, page: int) -> None:
        self.table.map(iova, PAGE, RW, os.dup(self.descriptor), page * PAGE)

    def parts(self, base: int, offset: int, size: int) -> Iterator[slice]:
        """Where the bytes lie in the file, page by page."""
        while size:
            count = min(size, PAGE - offset % PAGE)
            place = self.ranges[base][offset // PAGE] * PAGE + offset % PAGE
            yield slice(place, place + count)
            offset += count
            size -= count

    def bytes(self, base: int, offset: int, size: int) -> bytes:
        return b"".join(self.file[part] for part in self.parts(base, offset, size))

    def copy(self, source: int, target: int, size: int) -> layout.EngineCompletion:
        return self.engine.execute(
            layout.EngineCommand(
                op=layout.ENGINE_COPY,
                source=SOURCE + source,
                destination=TARGET + target,
                size=size,
            )
        )

    def expect_copied(self, source: int, target: int, size: int) -> None:
        data = self.bytes(SOURCE, source, size)
        done = 0
        for part in self.parts(TARGET, target, size):
            count = part.stop - part.start
            self.file[part] = data[done : done + count]
            done += count
        assert os.pread(self.descriptor, len(self.file), 0) == bytes(self.file)


@pytest.fixture(params=["mapped", "not mapped"])
def descriptor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Sealed memory, or a file that could be truncated and so is never mapped."""
    if request.param == "mapped":
        with SharedMemory(2 * PAGES * PAGE, MEMORY) as memory:
            yield memory.fd
        return
    opened = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    with SharedMemory(2 * PAGES * PAGE, MEMORY) as memory:
        yield memory


@pytest.mark.parametrize("longest", [1, 3, 400])
@pytest.mark.parametrize(
    ("source", "target", "size"),
    [
        (0, 0, PAGES * PAGE),
        (PAGE, 3 * PAGE, 300 * PAGE),
        (8, 8, 300 * PAGE),
        (0, 12, 300 * PAGE),
        (PAGE - 1, PAGE, 257 * PAGE + 2),
        (0, 0, 300 * PAGE + 1),
    ],
)
def test_copy_and_crc_do_what_bytes_do(
    descriptor: int, longest: int, source: int, target: int, size: int
) -> None:
    machine = Machine(descriptor, longest)
    for _ in range(2):  # the second time by the translations of the first
        checked = machine.engine.execute(
            layout.EngineCommand(op=layout.ENGINE_CRC32, source=SOURCE + source, size=size)
        )
        assert (checked.status, checked.done) == (0, size)
        assert checked.result == zlib.crc32(machine.bytes(SOURCE, source, size))
        copied = machine.copy(source, target, size)
        assert (copied.status, copied.done) == (0, size)
        machine.expect_copied(source, target, size)
    machine.table.clear()


@pytest.mark.parametrize("whole", [SOURCE, TARGET], ids=["from", "to"])
def test_from_one_piece_and_to_one_piece(descriptor: int, whole: int) -> None:
    machine = Machine(descriptor, 1, whole=whole)
    for source, target, size in (
        (0, 0, PAGES * PAGE),
        (PAGE, 3 * PAGE, 300 * PAGE),
        (8, 8, 300 * PAGE),
    ):
        copied = machine.copy(source, target, size)
        assert (copied.status, copied.done) == (0, size)
        machine.expect_copied(source, target, size)
    machine.table.clear()


@pytest.mark.parametrize("whole", [SOURCE, TARGET], ids=["from", "to"])
def test_one_piece_over_the_same_pages(memory: SharedMemory, whole: int) -> None:
    """Which bytes come first is not told; pages stay whole, and others are not touched."""
    machine = Machine(memory.fd, 1, whole=whole, shared=True)
    before = bytes(machine.file)
    copied = machine.copy(0, 0, 300 * PAGE)
    assert (copied.status, copied.done) == (0, 300 * PAGE)
    source = {before[page * PAGE :][:PAGE] for page in machine.ranges[SOURCE][:300]}
    written = set(machine.ranges[TARGET][:300])
    for page in range(2 * PAGES):
        now = bytes(memory.view[page * PAGE : (page + 1) * PAGE])
        assert now in source if page in written else now == before[page * PAGE :][:PAGE]
    machine.table.clear()


@pytest.mark.parametrize("longest", [1, 400])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, PAGES * PAGE), (0, 300 * PAGE + 1), (PAGE, 5), (8, 300 * PAGE), (PAGE - 1, 257 * PAGE)],
)
def test_reads_into_memory_do_what_bytes_do(
    descriptor: int, longest: int, offset: int, size: int
) -> None:
    machine = Machine(descriptor, longest)
    path = machine.engine.path(0)
    around = bytearray(b"#" * (size + 16))
    for _ in range(2):
        path.read_into(SOURCE + offset, memoryview(around)[8:-8])
        assert around == b"#" * 8 + machine.bytes(SOURCE, offset, size) + b"#" * 8
    machine.table.unmap(SOURCE + offset // PAGE * PAGE, PAGE)
    with pytest.raises(AccessRefused):
        path.read_into(SOURCE + offset, memoryview(around)[8:-8])
    machine.table.clear()


def test_scattered_whole_pages_go_many_at_a_time(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the cases above would show nothing of it."""
    moved: list[bool] = []
    whole = page_moves.Buffer.copy

    def copy(*arguments: object) -> bool:
        moved.append(whole(*arguments))  # type: ignore[arg-type]
        return moved[-1]

    monkeypatch.setattr(page_moves.Buffer, "copy", copy)
    machine = Machine(memory.fd, 1)
    machine.copy(0, 0, 1024 * PAGE)
    assert moved == [True, True]
    machine.copy(8, 0, 256 * PAGE)
    assert moved[2:] == [False]
    machine.table.clear()


def test_a_page_taken_away_faults_and_what_lies_before_it_is_done(memory: SharedMemory) -> None:
    machine = Machine(memory.fd, 1)
    machine.copy(0, 0, PAGES * PAGE)
    machine.expect_copied(0, 0, PAGES * PAGE)
    memory.view[:] = machine.file = bytearray(random.Random(2).randbytes(len(machine.file)))
    machine.table.unmap(TARGET + 700 * PAGE, PAGE)
    stopped = machine.copy(0, 0, PAGES * PAGE)
    assert stopped.status != 0
    assert stopped.done == 700 * PAGE
    assert stopped.fault_address == TARGET + 700 * PAGE
    machine.expect_copied(0, 0, 700 * PAGE)
    # Another page in its place: it is where the copy goes, not the one before.
    other = machine.ranges[TARGET][800]
    machine.table.unmap(TARGET + 800 * PAGE, PAGE)
    machine.map(TARGET + 700 * PAGE, other)
    machine.ranges[TARGET][700] = other
    assert machine.copy(0, 0, 800 * PAGE).status == 0
    machine.expect_copied(0, 0, 800 * PAGE)
    machine.table.clear()


def test_pages_that_were_copied_to_are_in_the_log_of_written_pages(memory: SharedMemory) -> None:
    machine = Machine(memory.fd, 1)
    machine.table.dirty.start(PAGE)
    machine.copy(0, PAGE, 300 * PAGE)
    bits = machine.table.dirty.report(TARGET, 1024 * PAGE, PAGE)
    assert int.from_bytes(bits, "little") == ((1 << 300) - 1) << 1
    assert not any(machine.table.dirty.report(SOURCE, 1024 * PAGE, PAGE))
    machine.table.clear()


def test_ranges_that_share_memory_change_nothing_outside(memory: SharedMemory) -> None:
    machine = Machine(memory.fd, 1)
    before = bytes(machine.file)
    copied = machine.engine.execute(
        layout.EngineCommand(
            op=layout.ENGINE_COPY,
            source=TARGET,
            destination=TARGET + 5 * PAGE,
            size=300 * PAGE,
        )
    )
    assert (copied.status, copied.done) == (0, 300 * PAGE)
    pages = machine.ranges[TARGET]
    source = {before[page * PAGE :][:PAGE] for page in pages[:300]}
    for page in range(2 * PAGES):
        now = bytes(memory.view[page * PAGE : (page + 1) * PAGE])
        if page in pages[5:305]:
            assert now in source
        else:
            assert now == before[page * PAGE : (page + 1) * PAGE]
    machine.table.clear()


def test_nothing_holds_the_memory_when_the_mappings_are_gone(memory: SharedMemory) -> None:
    def maps() -> int:
        with open("/proc/self/maps") as lines:
            return sum(MEMORY in line for line in lines)

    mine = maps()
    machine = Machine(memory.fd, 1)
    assert maps() == mine + 1
    machine.copy(0, 0, PAGES * PAGE)
    machine.engine.execute(
        layout.EngineCommand(op=layout.ENGINE_CRC32, source=SOURCE, size=PAGES * PAGE)
    )
    machine.table.unmap(0, 1 << 64)
    assert maps() == mine
