"""The DMA table against a model that knows pages only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyvfio_user import Access, DmaFault, DmaTable, FaultReason, RemoteProtocolError, SharedMemory

PAGE = 4096
PAGES = 24  # of the space that the test looks at
TOP = 1 << 64
BASES = (0, 0xFEE0_0000, TOP - PAGES * PAGE)
RW = Access.READ | Access.WRITE

pages = st.integers(0, PAGES - 1)
sizes = st.integers(1, PAGES)
accesses = st.sampled_from([Access.READ, Access.WRITE, RW])


@dataclass
class Page:
    """What is behind one page: a file's page (None: no file) and the rights."""

    file: int | None
    page: int
    access: Access


@dataclass
class Model:
    pages: dict[int, Page] = field(default_factory=dict)
    exact: dict[int, int] = field(default_factory=dict)  # for the strict policy


class TableMachine(RuleBasedStateMachine):
    """Maps, unmaps and accesses at random; the model is a dictionary of pages."""

    policy = "tolerant"

    @initialize(base=st.sampled_from(BASES))
    def start(self, base: int) -> None:
        self.base = base
        self.files = [SharedMemory(PAGES * PAGE, f"file{n}") for n in range(2)]
        self.content = [[n * 100 + page for page in range(PAGES)] for n in range(2)]
        for file, content in zip(self.files, self.content, strict=True):
            for page, value in enumerate(content):
                file.view[page * PAGE : (page + 1) * PAGE] = bytes([value]) * PAGE
        self.table = DmaTable("strict" if self.policy == "strict" else "tolerant")
        self.model = Model()
        self.named_last: int | None = None

    @rule(
        page=pages,
        size=sizes,
        file=st.sampled_from([None, 0, 1]),
        offset=pages,
        access=accesses,
    )
    def map(self, page: int, size: int, file: int | None, offset: int, access: Access) -> None:
        size = min(size, PAGES - page, PAGES - offset)
        overlap = any(p in self.model.pages for p in range(page, page + size))
        descriptor = None if file is None else os.dup(self.files[file].fd)
        try:
            self.table.map(self.base + page * PAGE, size * PAGE, access, descriptor, offset * PAGE)
        except RemoteProtocolError:
            assert overlap
            assert self.policy == "strict"
            if file is not None:
                self.named_last = file
            return
        assert not (overlap and self.policy == "strict")
        self.model.exact[page] = size
        if file is not None:
            self.named_last = file
        for position in range(size):
            self.model.pages[page + position] = Page(file, offset + position, access)

    @rule(page=pages, size=sizes)
    def unmap(self, page: int, size: int) -> None:
        size = min(size, PAGES - page)
        try:
            self.table.unmap(self.base + page * PAGE, size * PAGE)
        except RemoteProtocolError:
            assert self.policy == "strict"
            assert self.model.exact.get(page) != size
            return
        if self.policy == "strict":
            assert self.model.exact.pop(page) == size
        for position in range(page, page + size):
            self.model.pages.pop(position, None)

    @rule(page=pages, size=sizes, file=st.sampled_from([0, 1]), offset=pages, access=accesses)
    def map_in_a_row(self, page: int, size: int, file: int, offset: int, access: Access) -> None:
        numbers = range(min(size, PAGES - page, PAGES - offset))
        wanted = [
            (
                *(self.base + (page + i) * PAGE, PAGE, access),
                *(os.dup(self.files[file].fd), (offset + i) * PAGE),
            )
            for i in numbers
        ]
        known = any(behind.file == file for behind in self.model.pages.values())
        added = self.table.map_more(wanted)
        assert [tuple(mapping)[:3] for mapping in added] == [w[:3] for w in wanted[: len(added)]]
        for _, _, _, descriptor, _ in wanted[len(added) :]:
            os.close(descriptor)
        plain = self.named_last == file and known
        occupied = [page + i in self.model.pages for i in numbers]
        assert len(added) == (occupied.index(True) if True in occupied else len(numbers)) * plain
        for i in numbers[: len(added)]:
            self.model.pages[page + i] = Page(file, offset + i, access)
            self.model.exact[page + i] = 1

    @rule(page=pages, size=sizes)
    def unmap_in_a_row(self, page: int, size: int) -> None:
        there = {mapping.iova: mapping.size for mapping in self.table.mappings()}
        ranges = [(self.base + p * PAGE, PAGE) for p in range(page, min(page + size, PAGES))]
        count = self.table.unmap_more(ranges)
        exact = [there.get(iova) == length for iova, length in ranges]
        assert count == (exact.index(False) if False in exact else len(ranges))
        for p in range(page, page + count):
            del self.model.pages[p]
            self.model.exact.pop(p, None)

    @rule()
    def unmap_all(self) -> None:
        self.table.unmap_all()
        self.model = Model()

    @rule(page=pages, size=sizes, start=st.integers(0, PAGE - 1), cut=st.integers(0, PAGE - 1))
    def read(self, page: int, size: int, start: int, cut: int) -> None:
        iova = self.base + page * PAGE + start
        count = min(size, PAGES - page) * PAGE - start - cut
        if count <= 0:
            return
        expected = b"".join(
            bytes([self.byte(p)]) * PAGE if self.fault(p, Access.READ) is None else b"?" * PAGE
            for p in range(page, min(page + size, PAGES))
        )[start : start + count]
        self.check(iova, count, Access.READ)
        if self.first_fault(iova, count, Access.READ) is None:
            assert self.table.read(iova, count) == expected

    @rule(page=pages, size=sizes, value=st.integers(0, 255))
    def write(self, page: int, size: int, value: int) -> None:
        size = min(size, PAGES - page)
        iova, count = self.base + page * PAGE, size * PAGE
        self.check(iova, count, Access.WRITE)
        if self.first_fault(iova, count, Access.WRITE) is not None:
            return
        self.table.write(iova, bytes([value]) * count)
        for position in range(page, page + size):
            behind = self.model.pages[position]
            assert behind.file is not None
            self.content[behind.file][behind.page] = value

    def byte(self, page: int) -> int:
        behind = self.model.pages[page]
        assert behind.file is not None
        return self.content[behind.file][behind.page]

    def fault(self, page: int, wanted: Access) -> FaultReason | None:
        behind = self.model.pages.get(page)
        if behind is None:
            return FaultReason.UNMAPPED
        if wanted & ~behind.access:
            return FaultReason.FORBIDDEN
        return FaultReason.INACCESSIBLE if behind.file is None else None

    def first_fault(self, iova: int, count: int, wanted: Access) -> tuple[int, FaultReason] | None:
        first, last = (iova - self.base) // PAGE, (iova + count - 1 - self.base) // PAGE
        for page in range(first, last + 1):
            reason = self.fault(page, wanted)
            if reason is not None:
                return max(iova, self.base + page * PAGE), reason
        return None

    def check(self, iova: int, count: int, wanted: Access) -> None:
        expected = self.first_fault(iova, count, wanted)
        if expected is not None:
            with pytest.raises(DmaFault) as caught, self.table.access(iova, count, wanted):
                pass
            assert (caught.value.address, caught.value.reason) == expected
            return
        with self.table.access(iova, count, wanted) as spans:
            position = iova
            for span in spans:
                assert span.iova == position
                position += span.size
            assert position == iova + count

    @invariant()
    def says_what_the_model_says(self) -> None:
        found: dict[int, tuple[int, Access, bool]] = {}
        end = 0
        for mapping in self.table.mappings():
            assert mapping.iova >= end
            end = mapping.end
            for position in range(0, mapping.size, PAGE):
                page = (mapping.iova + position - self.base) // PAGE
                offset = (mapping.offset + position) // PAGE if mapping.backing else 0
                found[page] = (offset, mapping.access, mapping.backing is not None)
        assert found == {
            page: (behind.page if behind.file is not None else 0, behind.access,
                   behind.file is not None)
            for page, behind in self.model.pages.items()
        }  # fmt: skip
        used = {behind.file for behind in self.model.pages.values()} - {None}
        assert len(self.table.backings()) == len(used)

    @invariant()
    def the_files_hold_what_was_written(self) -> None:
        for file, content in zip(self.files, self.content, strict=True):
            assert bytes(file.view[::PAGE]) == bytes(content)

    def teardown(self) -> None:
        self.table.clear()
        assert not self.table.backings()
        for file in self.files:
            file.close()


class StrictMachine(TableMachine):
    """The same, to the letter of the specification."""

    policy = "strict"


# Deterministic, so that a failure is a change's own; the fuzzers look further.
BOUNDED = settings(
    max_examples=60,
    stateful_step_count=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

TestTolerantTable = TableMachine.TestCase
TestTolerantTable.settings = BOUNDED
TestStrictTable = StrictMachine.TestCase
TestStrictTable.settings = BOUNDED


@pytest.fixture
def byte_map() -> Iterator[tuple[DmaTable, SharedMemory]]:
    memory = SharedMemory(PAGE, "bytes")
    memory.view[:] = bytes(n % 251 for n in range(PAGE))
    table = DmaTable()
    yield table, memory
    table.clear()
    memory.close()


operations = st.lists(
    st.tuples(st.booleans(), st.integers(0, 63), st.integers(1, 64), st.integers(0, 63)),
    max_size=40,
)


@given(operations=operations)
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_against_a_byte_map(
    byte_map: tuple[DmaTable, SharedMemory], operations: list[tuple[bool, int, int, int]]
) -> None:
    """Ranges of single bytes, at the very end of the space."""
    table, memory = byte_map
    table.clear()
    base = TOP - 128
    model: dict[int, int] = {}
    for is_map, start, size, offset in operations:
        iova = base + start
        if is_map:
            table.map(iova, size, RW, os.dup(memory.fd), offset)
            model |= {iova + n: memory.view[offset + n] for n in range(size)}
        else:
            table.unmap(iova, size)
            for n in range(size):
                model.pop(iova + n, None)
    for address in range(base, TOP):
        if address in model:
            assert table.read(address, 1) == bytes([model[address]])
        else:
            assert table.find(address) is None
    for start in range(base, TOP, 7):
        size = 0
        while start + size in model:
            size += 1
        assert table.read(start, size) == bytes(model[start + n] for n in range(size))
