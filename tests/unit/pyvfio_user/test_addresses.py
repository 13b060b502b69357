"""The sorted set of addresses against a plain sorted list."""

from __future__ import annotations

import random
from bisect import bisect_left, insort

import pytest

from pyvfio_user.addresses import SortedAddresses

PAGE = 0x1000
COUNT = 6_000  # many blocks


def orders() -> dict[str, list[int]]:
    ascending = list(range(0, COUNT * PAGE, PAGE))
    mixed = ascending.copy()
    random.Random(1).shuffle(mixed)
    return {"ascending": ascending, "descending": ascending[::-1], "mixed": mixed}


def check(addresses: SortedAddresses, model: list[int], chance: random.Random) -> None:
    assert list(addresses) == model
    for _ in range(50):
        start, end = sorted(chance.randrange(-PAGE, (COUNT + 1) * PAGE) for _ in range(2))
        if chance.random() < 0.3:
            end = min(start + 2 * PAGE, end)
        low, high = bisect_left(model, start), bisect_left(model, end)
        assert addresses.between(start, end) == model[low:high]
        assert addresses.last_before(end) == (model[high - 1] if high else None)


@pytest.mark.parametrize("name", orders())
def test_filled_and_emptied_in_any_order(name: str) -> None:
    chance = random.Random(name)
    addresses, model = SortedAddresses(), list[int]()
    order = orders()[name]
    for position, address in enumerate(order):
        addresses.add(address)
        insort(model, address)
        if position % 500 == 0:
            check(addresses, model, chance)
    check(addresses, model, chance)
    for position, address in enumerate(order):
        addresses.remove(address)
        del model[bisect_left(model, address)]
        if position % 500 == 0:
            check(addresses, model, chance)
    assert not list(addresses)
    assert addresses.last_before(1 << 64) is None


def test_one_block_drained_between_two_others() -> None:
    addresses = SortedAddresses()
    for address in range(3_000):
        addresses.add(address)
    for address in range(500, 2_500):
        addresses.remove(address)
    assert addresses.between(0, 3_000) == [*range(500), *range(2_500, 3_000)]
    assert addresses.last_before(2_500) == 499
    for address in range(500, 2_500):
        addresses.add(address)
    assert list(addresses) == list(range(3_000))


def test_cleared_it_is_new() -> None:
    addresses = SortedAddresses()
    addresses.add(5)
    addresses.clear()
    assert addresses.between(0, 10) == []
    addresses.add(7)
    assert list(addresses) == [7]
