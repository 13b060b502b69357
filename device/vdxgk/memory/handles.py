"""Handles: opaque, of one kind each, and never used twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from vdxgk.memory.ntstatus import NtStatus, Refused

T = TypeVar("T")

_KIND_SHIFT = 56
_STEP = 0x10


class HandleTable(Generic[T]):
    """The live handles of one kind.

    A handle carries its kind in the top byte and a serial number that is not
    used again, so that a stale handle, or one of another kind, can only be
    refused.  ``limit`` bounds how many live at once.
    """

    def __init__(self, name: str, kind: int, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._live: dict[int, T] = {}
        self._numbers = (kind << _KIND_SHIFT | n * _STEP for n in itertools.count(1))

    def insert(self, value: T) -> int:
        """A new handle for ``value``.

        Raises Refused with STATUS_INSUFFICIENT_RESOURCES at the limit.
        """
        self.check_room()
        handle = next(self._numbers)
        self._live[handle] = value
        return handle

    def check_room(self) -> None:
        """Raise Refused with STATUS_INSUFFICIENT_RESOURCES if the table is full."""
        if len(self._live) >= self.limit:
            raise Refused(
                NtStatus.INSUFFICIENT_RESOURCES,
                f"the limit of {self.limit} {self.name}s is reached",
            )

    def get(self, handle: int) -> T:
        """What ``handle`` names; raises Refused with STATUS_INVALID_HANDLE."""
        try:
            return self._live[handle]
        except KeyError:
            raise Refused(
                NtStatus.INVALID_HANDLE, f"{handle:#x} is not a live {self.name} handle"
            ) from None

    def remove(self, handle: int) -> T:
        """Forget ``handle`` and return what it named; raises like ``get``."""
        value = self.get(handle)
        del self._live[handle]
        return value

    def remove_if(self, condition: Callable[[T], bool]) -> None:
        """Forget every handle whose value satisfies ``condition``."""
        self._live = {k: value for k, value in self._live.items() if not condition(value)}

    def newest(self, count: int) -> list[T]:
        """The last ``count`` that were inserted, oldest first."""
        return list(itertools.islice(reversed(self._live.values()), count))[::-1]

    def __contains__(self, handle: int) -> bool:
        return handle in self._live

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)
