"""The log of written pages against a set of bytes."""

from __future__ import annotations

import errno
import random

import pytest

from pyvfio_user import RemoteProtocolError
from pyvfio_user.dirty import DirtyLog, bitmap_size

PAGE = 0x1000
TOP = 1 << 64


def bits(bitmap: bytes) -> list[int]:
    value = int.from_bytes(bitmap, "little")
    return [bit for bit in range(8 * len(bitmap)) if value >> bit & 1]


@pytest.fixture
def log() -> DirtyLog:
    log = DirtyLog()
    assert log.start(PAGE) == PAGE
    return log


class TestReport:
    def test_names_the_pages_that_were_written_once(self, log: DirtyLog) -> None:
        log.wrote(3 * PAGE, 1)
        log.wrote(6 * PAGE - 1, 2)
        log.wrote(100 * PAGE, 0)
        assert bits(log.report(0, 128 * PAGE, PAGE)) == [3, 5, 6]
        assert bits(log.report(0, 128 * PAGE, PAGE)) == []

    def test_leaves_what_lies_outside(self, log: DirtyLog) -> None:
        log.wrote(0, 10 * PAGE)
        assert bits(log.report(2 * PAGE, 3 * PAGE, PAGE)) == [0, 1, 2]
        assert bits(log.report(0, 10 * PAGE, PAGE)) == [0, 1, 5, 6, 7, 8, 9]

    def test_reaches_the_end_of_the_address_space(self, log: DirtyLog) -> None:
        log.wrote(TOP - 1, 1)
        assert bits(log.report(TOP - 64 * PAGE, 64 * PAGE, PAGE)) == [63]

    def test_in_larger_units(self, log: DirtyLog) -> None:
        log.wrote(5 * PAGE, PAGE)
        log.wrote(17 * PAGE, PAGE)
        assert bits(log.report(0, 32 * PAGE, 4 * PAGE)) == [1, 4]

    def test_in_smaller_units(self) -> None:
        log = DirtyLog()
        assert log.start(4 * PAGE) == 4 * PAGE
        log.wrote(4 * PAGE, 1)
        assert bits(log.report(0, 16 * PAGE, PAGE)) == [4, 5, 6, 7]

    def test_a_page_that_is_partly_asked_for_stays(self) -> None:
        log = DirtyLog()
        log.start(4 * PAGE)
        log.wrote(0, 1)
        assert bits(log.report(PAGE, PAGE, PAGE)) == [0]
        assert bits(log.report(0, 4 * PAGE, PAGE)) == [0, 1, 2, 3]

    @pytest.mark.parametrize("seed", range(4))
    def test_against_a_model(self, seed: int) -> None:
        chance = random.Random(seed)
        log = DirtyLog()
        page = log.start(1 << chance.randrange(10, 15))
        model: set[int] = set()
        span = 3 * 512 * page
        for _ in range(400):
            address = chance.randrange(span)
            size = chance.choice([0, 1, page, page + 1, chance.randrange(span // 4)])
            log.wrote(address, size)
            model |= set(range(address // page, -(-(address + size) // page))) if size else set()
            if chance.random() < 0.2:
                unit = 1 << chance.randrange(10, 20)
                start = chance.randrange(0, span) // 0x400 * 0x400
                length = chance.randrange(1, span)
                found = log.report(start, length, unit)
                assert len(found) == bitmap_size(length, unit)
                touched = set()
                for number in model:
                    low = max(number * page, start) - start
                    high = min((number + 1) * page, start + length) - start
                    touched |= (
                        set(range(low // unit, (high - 1) // unit + 1)) if low < high else set()
                    )
                assert bits(found) == sorted(touched)
                model = {
                    number
                    for number in model
                    if number * page < start or (number + 1) * page > start + length
                }


class TestBounds:
    def test_beyond_its_memory_every_page_counts_as_written(self) -> None:
        log = DirtyLog(max_groups=2)
        log.start(PAGE)
        for group in range(2):
            log.wrote(group * 512 * PAGE, 1)
        assert bits(log.report(0, 64 * PAGE, PAGE)) == [0]
        log.wrote(0, 1)
        log.wrote(1 << 40, 1)
        for _ in range(2):
            assert bits(log.report(1 << 50, 65 * PAGE, PAGE)) == list(range(65))
        log.stop()
        log.start(PAGE)
        assert bits(log.report(1 << 50, 65 * PAGE, PAGE)) == []

    def test_a_range_of_everything_is_quick(self, log: DirtyLog) -> None:
        log.wrote(1 << 63, 1)
        assert bits(log.report(0, TOP, 1 << 60)) == [8]

    def test_off_it_notes_nothing(self) -> None:
        log = DirtyLog()
        log.wrote(0, PAGE)
        log.start(PAGE)
        assert bits(log.report(0, 64 * PAGE, PAGE)) == []
        log.wrote(0, PAGE)
        log.stop()
        log.start(PAGE)
        assert bits(log.report(0, 64 * PAGE, PAGE)) == []

    @pytest.mark.parametrize(("hint", "used"), [(1, PAGE), (1 << 21, 1 << 21), (1 << 62, 1 << 30)])
    def test_the_page_size_is_a_hint(self, hint: int, used: int) -> None:
        assert DirtyLog().start(hint) == used

    @pytest.mark.parametrize("page_size", [0, 3, PAGE + 1])
    def test_a_page_size_is_a_power_of_two(self, log: DirtyLog, page_size: int) -> None:
        for call in (DirtyLog().start, lambda size: log.report(0, PAGE, size)):
            with pytest.raises(RemoteProtocolError) as caught:
                call(page_size)
            assert caught.value.errno == errno.EINVAL

    def test_it_starts_once(self, log: DirtyLog) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            log.start(PAGE)
        assert caught.value.errno == errno.EBUSY

    @pytest.mark.parametrize(("address", "length"), [(0, 0), (TOP - 1, 2), (1, TOP)])
    def test_a_range_lies_within_64_bits(self, log: DirtyLog, address: int, length: int) -> None:
        with pytest.raises(RemoteProtocolError):
            log.report(address, length, PAGE)

    def test_a_report_needs_a_log(self) -> None:
        with pytest.raises(RemoteProtocolError):
            DirtyLog().report(0, PAGE, PAGE)
