"""A sorted set of addresses, kept in blocks.

A change moves the addresses of one block, not of all: the cost stays flat to
hundreds of thousands.  It is a third of what a general sorted container costs,
and a DMA_MAP is little more than this.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain

ADDRESS_END = 1 << 64  # DMA addresses have 64 bits
BLOCK = 512  # a full block has twice as many, and becomes two


class SortedAddresses:
    """Distinct integers, ascending."""

    def __init__(self) -> None:
        """Start empty."""
        self._blocks: list[list[int]] = []  # none of them empty
        self._firsts: list[int] = []  # the first address of each block

    def add(self, address: int) -> None:
        """Add an address that is not there."""
        firsts = self._firsts
        if not firsts:
            self._blocks.append([address])
            firsts.append(address)
            return
        position = bisect_right(firsts, address) - 1
        if position < 0:
            position = 0
            firsts[0] = address
        block = self._blocks[position]
        insort(block, address)
        if len(block) >= 2 * BLOCK:
            # Addresses mostly come ascending: the first part then stays full.
            rest = block[-BLOCK // 2 :]
            del block[-BLOCK // 2 :]
            self._blocks.insert(position + 1, rest)
            firsts.insert(position + 1, rest[0])

    def remove(self, address: int) -> None:
        """Remove an address that is there."""
        position = bisect_right(self._firsts, address) - 1
        block = self._blocks[position]
        del block[bisect_left(block, address)]
        if block:
            self._firsts[position] = block[0]
        else:
            del self._blocks[position], self._firsts[position]

    def last_before(self, end: int) -> int | None:
        """Return the greatest address below `end`."""
        position = bisect_left(self._firsts, end) - 1
        if position < 0:
            return None
        block = self._blocks[position]
        return block[bisect_left(block, end) - 1]

    def between(self, start: int, end: int) -> list[int]:
        """Return the addresses in [start, end), ascending."""
        first = max(bisect_right(self._firsts, start) - 1, 0)
        stop = bisect_left(self._firsts, end)
        found = list(chain.from_iterable(self._blocks[first:stop]))
        return found[bisect_left(found, start) : bisect_left(found, end)]

    def __iter__(self) -> chain[int]:
        """Go through all of them, ascending."""
        return chain.from_iterable(self._blocks)

    def clear(self) -> None:
        """Remove all of them."""
        self._blocks.clear()
        self._firsts.clear()
