"""The DMA table, both policies, without a client."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio_user import (
    Access,
    DmaFault,
    DmaTable,
    FaultReason,
    LocalProtocolError,
    RemoteProtocolError,
    SharedMemory,
)
from pyvfio_user.dma import MOST_KEPT

PAGE = 0x1000
RW = Access.READ | Access.WRITE
TOP = 1 << 64


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def layout(table: DmaTable) -> list[tuple[int, int, int]]:
    return [(m.iova, m.size, m.offset) for m in table.mappings()]


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    with SharedMemory(64 * PAGE, "client") as memory:
        for page in range(64):
            memory.view[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
        yield memory


@pytest.fixture
def table() -> Iterator[DmaTable]:
    before = open_descriptors()
    table = DmaTable()
    yield table
    table.clear()
    assert open_descriptors() == before, "a descriptor leaked"


@pytest.fixture
def strict() -> Iterator[DmaTable]:
    table = DmaTable("strict")
    yield table
    table.clear()


def share(
    table: DmaTable, memory: SharedMemory, iova: int, size: int, offset: int, *, access: Access = RW
) -> None:
    table.map(iova, size, access, os.dup(memory.fd), offset)


class TestAccess:
    def test_reads_and_writes_the_clients_memory(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0x10000, 2 * PAGE, 4 * PAGE)
        table.write(0x10FFE, b"abcd")
        assert bytes(memory.view[5 * PAGE - 2 : 5 * PAGE + 2]) == b"abcd"
        assert table.read(0x10FFD, 6) == b"\x04abcd\x05"

    @pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
    def test_the_byte_behind_the_range_is_the_one_that_fails(
        self, table: DmaTable, memory: SharedMemory, size: int
    ) -> None:
        share(table, memory, 0x10000, 3 * PAGE, 0)
        start = 0x10000 + 3 * PAGE - size
        assert len(table.read(start, size)) == size
        with pytest.raises(DmaFault) as caught:
            table.read(start, size + 1)
        assert (caught.value.address, caught.value.reason) == (
            0x10000 + 3 * PAGE,
            FaultReason.UNMAPPED,
        )

    def test_nothing_is_written_when_any_byte_fails(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0, PAGE, 0)
        share(table, memory, PAGE, PAGE, PAGE, access=Access.READ)
        with pytest.raises(DmaFault) as caught:
            table.write(0, b"\xff" * 2 * PAGE)
        assert (caught.value.address, caught.value.reason) == (PAGE, FaultReason.FORBIDDEN)
        assert bytes(memory.view[:PAGE]) == bytes(PAGE)

    def test_write_only_memory_cannot_be_read(self, table: DmaTable, memory: SharedMemory) -> None:
        share(table, memory, 0, PAGE, 0, access=Access.WRITE)
        with pytest.raises(DmaFault, match="not for this access"):
            table.read(0, 1)
        table.write(0, b"x")

    def test_a_range_without_descriptor_is_inaccessible(self, table: DmaTable) -> None:
        table.map(0, PAGE, RW)
        with pytest.raises(DmaFault) as caught:
            table.read(8, 1)
        assert (caught.value.address, caught.value.reason) == (8, FaultReason.INACCESSIBLE)

    def test_a_range_that_wraps_is_out_of_range(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, TOP - PAGE, PAGE, 7 * PAGE)
        assert table.read(TOP - 1, 1) == b"\x07"
        with pytest.raises(DmaFault) as caught:
            table.read(TOP - 1, 2)
        assert caught.value.reason is FaultReason.OUT_OF_RANGE
        assert table.read(TOP - PAGE, PAGE) == bytes([7]) * PAGE

    def test_an_empty_access_needs_nothing(self, table: DmaTable) -> None:
        assert table.read(0x1234, 0) == b""

    def test_two_logical_pages_on_one_physical_page_do_not_merge(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0, PAGE, 3 * PAGE)
        share(table, memory, PAGE, PAGE, 3 * PAGE)
        with table.access(0, 2 * PAGE, Access.READ) as spans:
            assert [(span.iova, span.size) for span in spans] == [(0, PAGE), (PAGE, PAGE)]
        assert table.read(0, 2 * PAGE) == bytes([3]) * 2 * PAGE

    def test_neighbours_in_the_file_are_one_span(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        for page in range(8):
            share(table, memory, page * PAGE, PAGE, (page + 8) * PAGE)
        with table.access(5, 8 * PAGE - 9, Access.READ) as spans:
            assert [(span.iova, span.size) for span in spans] == [(5, 8 * PAGE - 9)]
            assert bytes(spans[0].read(PAGE - 5, 1)) == b"\x09"

    def test_neighbours_in_different_files_are_not(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        with SharedMemory(2 * PAGE, "other") as other:
            share(table, memory, 0, PAGE, 0)
            share(table, other, PAGE, PAGE, PAGE)
            with table.access(0, 2 * PAGE, Access.READ) as spans:
                assert len(spans) == 2

    def test_a_view_dies_with_its_access(self, table: DmaTable, memory: SharedMemory) -> None:
        share(table, memory, 0, PAGE, PAGE)
        with table.access(0, PAGE, RW) as spans:
            view = spans[0].read()
            assert isinstance(view, memoryview)
            assert view.readonly
        with pytest.raises(ValueError, match="released"):
            view[0]
        with pytest.raises(LocalProtocolError):
            spans[0].read()
        with pytest.raises(LocalProtocolError):
            spans[0].write(b"x")

    def test_an_access_for_reading_cannot_write(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0, PAGE, 0)
        with table.access(0, PAGE, Access.READ) as spans, pytest.raises(LocalProtocolError):
            spans[0].write(b"x")

    @pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, PAGE + 1), (PAGE, 1), (0, -1)])
    def test_a_span_ends_where_it_ends(
        self, table: DmaTable, memory: SharedMemory, offset: int, size: int
    ) -> None:
        share(table, memory, 0, 2 * PAGE, 0)
        with table.access(0, PAGE, Access.READ) as spans, pytest.raises(LocalProtocolError):
            spans[0].read(offset, size)

    def test_accesses_nest_in_a_thread(self, table: DmaTable, memory: SharedMemory) -> None:
        share(table, memory, 0, 2 * PAGE, 2 * PAGE)
        with (
            table.access(0, PAGE, Access.READ) as source,
            table.access(PAGE, PAGE, Access.WRITE) as destination,
        ):
            destination[0].write(source[0].read())
        assert bytes(memory.view[3 * PAGE : 4 * PAGE]) == bytes([2]) * PAGE

    def test_the_raw_runs_and_the_file_behind_them(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        for page in range(4):
            share(table, memory, page * PAGE, PAGE, (8 - 2 * page) * PAGE)
        with table.access(0x10, 2 * PAGE, RW) as access:
            runs = access.translation.runs
            assert [(run.iova, run.size, run.offset) for run in runs] == [
                (0x10, PAGE - 0x10, 8 * PAGE + 0x10),
                (PAGE, PAGE, 6 * PAGE),
                (2 * PAGE, 0x10, 4 * PAGE),
            ]
            view = access.file(writable=True)
            assert view is not None
            assert len(view) == memory.size
            view[6 * PAGE] = 0xAA
            readable = access.file()
            assert readable is not None
            assert readable.readonly
        assert memory.view[6 * PAGE] == 0xAA
        for gone in (view, readable):
            with pytest.raises(ValueError, match="released"):
                gone[0]
        with pytest.raises(LocalProtocolError):
            access.file()
        with table.access(0, PAGE, Access.READ) as access, pytest.raises(LocalProtocolError):
            access.file(writable=True)

    def test_runs_of_two_files_or_of_one_that_is_not_mapped_have_no_file(
        self, table: DmaTable, memory: SharedMemory, tmp_path: Path
    ) -> None:
        share(table, memory, 0, PAGE, 0)
        (tmp_path / "file").write_bytes(bytes(PAGE))
        table.map(PAGE, PAGE, RW, os.open(tmp_path / "file", os.O_RDWR), 0)
        for start, size in ((0, 2 * PAGE), (PAGE, PAGE)):
            with table.access(start, size, Access.READ) as access:
                assert access.file() is None

    @pytest.mark.parametrize("change", ["unmap", "unmap a page", "unmap all", "map over", "clear"])
    def test_a_translation_lasts_until_the_table_changes(
        self, table: DmaTable, memory: SharedMemory, change: str
    ) -> None:
        for page in range(32):
            share(table, memory, page * PAGE, PAGE, (31 - page) * PAGE)
        for _ in range(2):
            with table.access(0, 32 * PAGE, Access.READ) as access:
                access.translation.note = "mine"
        with table.access(0, 32 * PAGE, Access.READ) as access:
            assert access.translation.note == "mine"
        with table.access(0, 32 * PAGE, Access.WRITE) as access:
            assert access.translation.note is None

        changes: dict[str, Callable[[], object]] = {
            "unmap": lambda: table.unmap(0, 32 * PAGE),
            "unmap a page": lambda: table.unmap(7 * PAGE, PAGE),
            "unmap all": table.unmap_all,
            "map over": lambda: share(table, memory, 7 * PAGE, PAGE, 40 * PAGE),
            "clear": table.clear,
        }
        changes[change]()
        if change == "map over":
            assert table.read(0, 32 * PAGE)[7 * PAGE] == 40
            with table.access(0, 32 * PAGE, Access.READ) as access:
                assert access.translation.note is None
            return
        with pytest.raises(DmaFault) as caught:
            table.read(0, 32 * PAGE)
        assert caught.value.address == (7 * PAGE if change == "unmap a page" else 0)

    def test_what_is_kept_of_translations_is_bounded(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0, 64 * PAGE, 0)
        before = len(gc.get_objects())
        for address in range(MOST_KEPT // 4):
            table.read(address, 1)
        assert len(gc.get_objects()) - before < MOST_KEPT // 4

    def test_an_unmap_waits_for_the_access_under_way(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        """The revocation barrier."""
        share(table, memory, 0, PAGE, 0)
        unmapped = threading.Event()

        def unmap() -> None:
            table.unmap(0, PAGE)
            unmapped.set()

        thread = threading.Thread(target=unmap)
        with table.access(0, PAGE, RW) as spans:
            thread.start()
            # It must not come: waiting a little longer could only find more.
            assert not unmapped.wait(0.05)
            spans[0].write(b"before")
        thread.join()
        assert unmapped.is_set()
        with pytest.raises(DmaFault):
            table.read(0, 1)

    def test_a_waiting_unmap_goes_before_the_next_access(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0, PAGE, 0)
        started = threading.Event()

        def hammer() -> int:
            count = 0
            while True:
                try:
                    table.read(0, PAGE)
                except DmaFault:
                    return count
                count += 1
                started.set()

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        started.wait()
        table.unmap(0, PAGE)  # a lock that starves its waiters would hang here
        for thread in threads:
            thread.join()


class TestTolerant:
    def test_a_map_replaces_what_it_overlaps(self, table: DmaTable, memory: SharedMemory) -> None:
        share(table, memory, 0, 4 * PAGE, 0)
        share(table, memory, PAGE, PAGE, 9 * PAGE)
        assert layout(table) == [
            (0, PAGE, 0),
            (PAGE, PAGE, 9 * PAGE),
            (2 * PAGE, 2 * PAGE, 2 * PAGE),
        ]
        assert table.statistics.replaced == 1
        assert table.read(0, 4 * PAGE) == b"".join(bytes([p]) * PAGE for p in (0, 9, 2, 3))

    def test_an_unmap_inside_a_mapping_splits_it(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, 0x200000, 16 * PAGE, 0)
        assert table.unmap(0x200000, PAGE) == 1
        assert layout(table) == [(0x200000 + PAGE, 15 * PAGE, PAGE)]
        assert table.unmap(0x200000 + 4 * PAGE, PAGE) == 1
        assert layout(table) == [
            (0x200000 + PAGE, 3 * PAGE, PAGE),
            (0x200000 + 5 * PAGE, 11 * PAGE, 5 * PAGE),
        ]
        assert table.statistics.split == 1

    def test_an_unmap_covers_many_and_trims_the_ends(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        for page in range(0, 12, 2):
            share(table, memory, page * PAGE, 2 * PAGE, page * PAGE)
        assert table.unmap(PAGE, 10 * PAGE) == 6
        assert layout(table) == [(0, PAGE, 0), (11 * PAGE, PAGE, 11 * PAGE)]

    def test_an_unmap_of_nothing_succeeds(self, table: DmaTable) -> None:
        assert table.unmap(0x5000, PAGE) == 0
        assert table.unmap(0, TOP) == 0
        assert table.unmap(1 << 63, 1 << 63) == 0
        assert table.statistics.unmatched == 3

    def test_the_end_of_the_space(self, table: DmaTable) -> None:
        table.map(TOP - PAGE, PAGE, RW)
        table.map(0, PAGE, RW)
        assert table.unmap(0x1100000 - PAGE, TOP - 0x1100000 + PAGE) == 1
        assert layout(table) == [(0, PAGE, 0)]

    @pytest.mark.parametrize(("iova", "size"), [(0, 0), (TOP - PAGE, 2 * PAGE), (1, TOP)])
    def test_an_impossible_map_is_refused(self, table: DmaTable, iova: int, size: int) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            table.map(iova, size, RW)
        assert caught.value.errno == errno.EINVAL
        assert not len(table)

    def test_a_map_beyond_the_end_of_the_file_is_refused(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            share(table, memory, 0, 2 * PAGE, 63 * PAGE)
        assert caught.value.errno == errno.EINVAL

    def test_every_mapping_of_a_file_shares_one_descriptor(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        before = open_descriptors()
        share(table, memory, 0, PAGE, 0)
        once = open_descriptors()
        for page in range(1, 64):
            share(table, memory, 2 * page * PAGE, PAGE, page * PAGE)
        assert open_descriptors() == once
        table.unmap(0, TOP)
        assert open_descriptors() == before

    def test_65535_mappings_cost_one_descriptor_and_one_memory_map(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        """More than the kernel's limit on memory maps allows, with one for each."""
        share(table, memory, 0, PAGE, 0)
        descriptors = open_descriptors()
        with open("/proc/self/maps") as maps:
            before = sum(1 for line in maps if "client" in line)
        for page in range(1, 65535):
            share(table, memory, 2 * page * PAGE, PAGE, page % 64 * PAGE)
        assert len(table) == 65535
        assert open_descriptors() == descriptors
        with open("/proc/self/maps") as maps:
            assert sum(1 for line in maps if "client" in line) == before
        assert table.read(2 * 65534 * PAGE, 1) == bytes([65534 % 64])

    def test_splits_are_bounded_by_losing_access(self) -> None:
        table = DmaTable(max_mappings=4)
        table.map(0, TOP, RW)
        for page in range(1, 9):
            table.unmap(2 * page * PAGE, PAGE)
        assert len(table) <= 4
        assert table.statistics.dropped
        assert all(not table.pieces(2 * page * PAGE, PAGE) for page in range(1, 9))

    def test_too_many_mappings_are_refused(self) -> None:
        table = DmaTable(max_mappings=2)
        table.map(0, PAGE, RW)
        table.map(PAGE, PAGE, RW)
        with pytest.raises(RemoteProtocolError) as caught:
            table.map(2 * PAGE, PAGE, RW)
        assert caught.value.errno == errno.ENOSPC

    def test_pieces_are_clipped_and_leave_gaps_out(
        self, table: DmaTable, memory: SharedMemory
    ) -> None:
        share(table, memory, PAGE, 2 * PAGE, 10 * PAGE)
        share(table, memory, 4 * PAGE, PAGE, 2 * PAGE, access=Access.READ)
        found = table.pieces(2 * PAGE, 8 * PAGE)
        assert [(m.iova, m.size, m.offset, m.access) for m in found] == [
            (2 * PAGE, PAGE, 11 * PAGE, RW),
            (4 * PAGE, PAGE, 2 * PAGE, Access.READ),
        ]
        share(table, memory, 5 * PAGE, 4 * PAGE, 20 * PAGE)
        found = table.pieces(2 * PAGE, 5 * PAGE)
        assert [(m.iova, m.size) for m in found] == [
            (2 * PAGE, PAGE),
            (4 * PAGE, PAGE),
            (5 * PAGE, 2 * PAGE),
        ]
        assert table.find(3 * PAGE - 1) is not None
        assert table.find(3 * PAGE) is None


class TestStrict:
    """DMA_MAP and DMA_UNMAP to the letter."""

    def test_a_map_over_an_existing_region_fails_with_eexist(self, strict: DmaTable) -> None:
        strict.map(0, 2 * PAGE, RW)
        for iova, size in ((0, 2 * PAGE), (PAGE, PAGE), (PAGE, 4 * PAGE)):
            with pytest.raises(RemoteProtocolError) as caught:
                strict.map(iova, size, RW)
            assert caught.value.errno == errno.EEXIST
        assert layout(strict) == [(0, 2 * PAGE, 0)]

    def test_an_unmap_must_match_exactly(self, strict: DmaTable) -> None:
        strict.map(0, 2 * PAGE, RW)
        for iova, size in ((0, PAGE), (PAGE, PAGE), (0, 4 * PAGE), (8 * PAGE, PAGE)):
            with pytest.raises(RemoteProtocolError) as caught:
                strict.unmap(iova, size)
            assert caught.value.errno == errno.ENOENT
        assert strict.unmap(0, 2 * PAGE) == 1
        assert not len(strict)

    def test_an_empty_unmap_is_invalid(self, strict: DmaTable) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            strict.unmap(0, 0)
        assert caught.value.errno == errno.EINVAL


def test_a_file_that_somebody_else_let_go_of_last_is_opened_anew(
    table: DmaTable, memory: SharedMemory
) -> None:
    held = table.map(0, 0x1000, RW, os.dup(memory.fd), 0).backing
    assert held is not None
    held.acquire()
    table.unmap(0, 0x1000)
    assert held.is_live
    assert held.release()
    with pytest.raises(LocalProtocolError):
        held.acquire()

    fresh = table.map(0, 0x1000, RW, os.dup(memory.fd), 0).backing
    assert fresh is not None
    assert fresh is not held
    assert table.backings() == [fresh]
    table.write(0, b"alive")
    assert bytes(memory.view[:5]) == b"alive"
