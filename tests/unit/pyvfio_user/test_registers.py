"""Declared registers: masks, access sizes, callbacks."""

from __future__ import annotations

import pytest

from pyvfio_user import Register, RegisterBlock


def word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


class TestMasks:
    def test_only_writable_bits_change(self) -> None:
        block = RegisterBlock([Register(8, initial=0x12345678, writable=0x00FF00FF)])
        block.write(8, word(0xAABBCCDD))
        assert block.read(8, 4) == word(0x12BB56DD)

    def test_a_1_clears_a_0_leaves(self) -> None:
        block = RegisterBlock([Register(0, 2, initial=0xF0F1, clearable=0xFFF0)])
        block.write(0, word(0x3011, 2))
        assert block[0].value == 0xC0E1

    def test_a_smaller_access_touches_its_bytes_only(self) -> None:
        block = RegisterBlock([Register(8, 8, writable=2**64 - 1, sizes=(2, 4, 8))])
        block.write(8, word(0x1122334455667788, 8))
        block.write(12, word(0xAABBCCDD))
        block.write(10, word(0xEEFF, 2))
        assert block.read(8, 8) == word(0xAABBCCDDEEFF7788, 8)
        assert block.read(14, 2) == word(0xAABB, 2)

    def test_reset_brings_the_initial_value_back(self) -> None:
        calls: list[int] = []
        block = RegisterBlock([Register(0, initial=7, writable=0xFF, on_write=calls.append)])
        block.write(0, word(1))
        block.reset()
        assert (block[0].value, calls) == (7, [1])


class TestAccesses:
    @pytest.mark.parametrize(
        ("offset", "count"), [(0, 1), (0, 2), (0, 8), (2, 4), (3, 1), (4, 4), (12, 4), (0, 0)]
    )
    def test_what_no_register_takes_is_all_ones_and_lost(self, offset: int, count: int) -> None:
        block = RegisterBlock([Register(0, writable=2**32 - 1), Register(16, writable=1)])
        assert block.read(offset, count) == b"\xff" * count
        block.write(offset, bytes(count))
        block.write(offset, b"\1" * count)
        assert (block[0].value, block[16].value) == (0, 0)

    def test_a_size_that_is_declared_must_be_aligned(self) -> None:
        block = RegisterBlock([Register(8, 8, initial=0x8877665544332211, sizes=(2, 4))])
        assert block.read(9, 2) == b"\xff\xff"
        assert block.read(10, 4) == b"\xff" * 4
        assert block.read(10, 2) == b"\x33\x44"
        assert block.read(8, 8) == b"\xff" * 8


class TestCallbacks:
    def test_a_read_asks(self) -> None:
        values = iter([5, 0x0102030405060708])
        block = RegisterBlock([Register(0, 8, sizes=(4, 8), on_read=lambda: next(values))])
        assert block.read(0, 4) == word(5)
        assert block.read(4, 4) == word(0x01020304)
        assert block[0].value == 0

    def test_a_write_tells_all_that_was_written_after_the_masks(self) -> None:
        seen: list[tuple[int, int]] = []
        block = RegisterBlock(
            [Register(0, writable=0xF, on_write=lambda bits: seen.append((bits, block[0].value)))]
        )
        block.write(0, word(0xABC7))
        assert seen == [(0xABC7, 7)]

    def test_a_write_of_a_part_tells_it_in_place(self) -> None:
        seen: list[int] = []
        block = RegisterBlock([Register(0, 4, sizes=(1,), on_write=seen.append)])
        block.write(2, b"\x5a")
        assert seen == [0x5A0000]


class TestDeclaration:
    @pytest.mark.parametrize(
        "declare",
        [
            lambda: Register(0, 3),
            lambda: Register(2, 4),
            lambda: Register(-4),
            lambda: Register(0, 1, initial=256),
            lambda: Register(0, writable=1 << 32),
            lambda: Register(0, clearable=-1),
            lambda: Register(0, 4, sizes=(8,)),
            lambda: Register(0, 4, sizes=(3,)),
            lambda: RegisterBlock([Register(0, 8), Register(4)]),
            lambda: RegisterBlock([Register(4), Register(4)]),
        ],
    )
    def test_nonsense_is_refused(self, declare: object) -> None:
        assert callable(declare)
        with pytest.raises(ValueError, match=r"register|bytes"):
            declare()

    def test_a_register_is_found_by_its_first_byte_only(self) -> None:
        block = RegisterBlock([Register(8, 8)])
        assert block[8].width == 8
        for offset in (0, 7, 9, 12, 16):
            with pytest.raises(KeyError):
                block[offset]
