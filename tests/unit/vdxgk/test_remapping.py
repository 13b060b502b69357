"""The commit check against lists that the hypervisor announces mapping by mapping."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from pyvfio_user import Access, DmaTable, SharedMemory
from vdxgk.memory.guest_ram import GuestRam
from vdxgk.memory.objects import WantedMapping
from vdxgk.memory.remapping import RemapFailure, check_mapped, check_unmapped

PAGE = 4096
PAGES = 64
RAM = 1 << 20  # where the guest has the file
LOGICAL = 1 << 32
READ_WRITE = Access.READ | Access.WRITE


class Machine:
    """A guest's memory, another file, and what was announced of both."""

    def __init__(self) -> None:
        self.files = [SharedMemory(PAGES * PAGE, "ram"), SharedMemory(PAGES * PAGE, "other")]
        self.table = DmaTable()
        self.ram = GuestRam()
        self.table.map(RAM, PAGES * PAGE, READ_WRITE, os.dup(self.files[0].fd))
        (mapping,) = self.table.mappings()
        assert mapping.backing is not None
        mapping.backing.acquire()
        self.ram.learn(RAM, PAGES * PAGE, mapping.backing, 0)

    def announce(
        self, page: int, place: int, access: Access = READ_WRITE, file: int | None = 0
    ) -> None:
        """One page of the list, at a place in a file."""
        copy = None if file is None else os.dup(self.files[file].fd)
        self.table.map(LOGICAL + page * PAGE, PAGE, access, copy, place * PAGE)

    def check(self, *runs: tuple[int, int, int]) -> RemapFailure | None:
        """Of runs: a page of the list, a page of RAM, how many."""
        wanted = [
            WantedMapping(LOGICAL + page * PAGE, RAM + place * PAGE, count * PAGE)
            for page, place, count in runs
        ]
        return check_mapped(wanted, self.table, self.ram)

    def close(self) -> None:
        """Give all back."""
        self.ram.release()
        self.table.clear()
        for file in self.files:
            file.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With nothing announced but the memory itself."""
    machine = Machine()
    yield machine
    machine.close()


def test_pages_in_order_are_right(machine: Machine) -> None:
    for page in range(16):
        machine.announce(page, 8 + page)
    assert machine.check((0, 8, 16)) is None
    assert machine.check((3, 11, 5)) is None


def test_pages_in_any_order_are_right(machine: Machine) -> None:
    places = random.Random(1).sample(range(PAGES), 16)
    for page, place in enumerate(places):
        machine.announce(page, place)
    assert machine.check(*((page, place, 1) for page, place in enumerate(places))) is None


@pytest.mark.parametrize("page", [0, 1, 7, 15])
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"place": 60}, "is mapped to another page"),
        ({"file": 1}, "is mapped to another page"),
        ({"file": None}, "is mapped to another page"),
        ({"access": Access.READ}, "is not mapped for read and write"),
        ({"access": Access.WRITE}, "is not mapped for read and write"),
    ],
)
def test_one_page_among_many_is_wrong(
    machine: Machine, page: int, wrong: dict[str, int], reason: str
) -> None:
    for each in range(16):
        machine.announce(each, 8 + each)
    given: dict[str, int] = {"place": 8 + page, **wrong}
    machine.announce(page, **given)  # type: ignore[arg-type]
    failure = machine.check((0, 8, 16))
    assert failure is not None
    assert (failure.logical, failure.reason) == (LOGICAL + page * PAGE, reason)
    assert failure.expected == RAM + (8 + page) * PAGE
    place = given["place"] if wrong.get("file", 0) == 0 else None
    assert failure.found == (None if place is None else RAM + place * PAGE)


@pytest.mark.parametrize("page", [0, 1, 15])
def test_one_page_is_missing(machine: Machine, page: int) -> None:
    for each in range(16):
        if each != page:
            machine.announce(each, 8 + each)
    failure = machine.check((0, 8, 16))
    assert failure is not None
    assert (failure.logical, failure.found) == (LOGICAL + page * PAGE, None)


def test_what_is_around_a_list_does_not_count(machine: Machine) -> None:
    """One mapping over all of it and more."""
    machine.table.map(LOGICAL, 32 * PAGE, READ_WRITE, os.dup(machine.files[0].fd), 4 * PAGE)
    assert machine.check((8, 12, 8)) is None
    failure = machine.check((8, 13, 8))
    assert failure is not None
    assert failure.logical == LOGICAL + 8 * PAGE


@pytest.mark.parametrize("page", [0, 9, 15])
def test_what_is_still_mapped_is_found(machine: Machine, page: int) -> None:
    wanted = [WantedMapping(LOGICAL, RAM, 16 * PAGE)]
    assert check_unmapped(wanted, machine.table, machine.ram) is None
    machine.announce(page, page)
    failure = check_unmapped(wanted, machine.table, machine.ram)
    assert failure is not None
    assert (failure.logical, failure.found) == (LOGICAL + page * PAGE, RAM + page * PAGE)


@pytest.mark.parametrize("page", [0, 1, 15])
def test_of_a_bar_presence_is_checked(machine: Machine, page: int) -> None:
    """It has no descriptors: nothing but addresses tells one page from the next."""
    wanted = [WantedMapping(LOGICAL, 1 << 40, 16 * PAGE)]
    for each in range(16):
        machine.announce(each, 0, file=None)
    assert check_mapped(wanted, machine.table, machine.ram, io_space=True) is None
    machine.table.unmap(LOGICAL + page * PAGE, PAGE)
    failure = check_mapped(wanted, machine.table, machine.ram, io_space=True)
    assert failure is not None
    assert (failure.logical, failure.reason) == (LOGICAL + page * PAGE, "is not mapped")
    machine.announce(page, page)
    failure = check_mapped(wanted, machine.table, machine.ram, io_space=True)
    assert failure is not None
    assert (failure.logical, failure.found) == (LOGICAL + page * PAGE, RAM + page * PAGE)
