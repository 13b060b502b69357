"""AMD-Vi: the driver's part.

AMD I/O Virtualization Technology (IOMMU) Specification, revision 3.08:
sections 2.2 (tables), 2.4 (commands), 2.5 (events), 3.4 (registers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames, IommuFault
from vdxgk_lab.qtest.page_table import CommandQueue, PageTable, TableIommu

REGISTERS = 0xFED8_0000
"""Where QEMU's firmware tables say they are."""

_DEVICE_TABLE, _COMMANDS, _EVENTS, _CONTROL = 0x00, 0x08, 0x10, 0x18
_COMMAND_HEAD, _COMMAND_TAIL, _EVENT_HEAD, _EVENT_TAIL = 0x2000, 0x2008, 0x2010, 0x2018

# Control register, 3.4.3
_ENABLE, _EVENT_LOG_ENABLE, _COMMAND_ENABLE = 1 << 0, 1 << 2, 1 << 12

_256_ENTRIES = 8 << 56  # of 16 bytes: one page
_DTE_SIZE = 32
_DEVICE_TABLE_PAGES = 2  # 256 functions: bus 0

_COMPLETION_WAIT, _INVALIDATE_DEVICE, _INVALIDATE_PAGES, _INVALIDATE_ALL = 1, 2, 3, 8
PAGE_FAULT = 2
"""The event code of IO_PAGE_FAULT, 2.5.3."""

_READ, _WRITE = 1 << 61, 1 << 62
_ALL_PAGES = 0x7FFF_FFFF_FFFF_F000
_DOMAIN_ID = 1
LEVELS = 6
"""All of them: 64 bits."""

# Flags of IO_PAGE_FAULT, 2.5.3, in the event's first quadword
_FLAG_WRITE = 1 << 53


class HostTable:
    """Entries of the host page tables, 2.2.3."""

    def directory(self, address: int, level: int) -> int:
        """See Encoding."""
        return address | (level - 1) << 9 | _READ | _WRITE | 1

    def leaf(self, address: int, level: int, access: Access) -> int:
        """See Encoding.  A next level of 0 means the level's own page size."""
        bits = (_READ if access & Access.READ else 0) | (_WRITE if access & Access.WRITE else 0)
        return address | bits | 1


@dataclass(frozen=True)
class Event:
    """An entry of the event log: its code (2.5.1), and its two quadwords."""

    code: int
    low: int
    high: int


class AmdIommu(TableIommu):
    """One function in one domain of six levels.  See Iommu."""

    aperture_end = (1 << 64) - 1

    def __init__(self, qtest: QtestClient, frames: Frames, requester: int) -> None:
        """Write the tables and turn on commands and events; nothing is translated yet."""
        self._qtest = qtest
        self._requester = requester
        self.table = PageTable(qtest, frames, LEVELS, HostTable())
        self._devices = frames.take(_DEVICE_TABLE_PAGES)
        self._commands = CommandQueue(qtest, frames)
        self._events = frames.take()
        self._store(_DEVICE_TABLE, self._devices | (_DEVICE_TABLE_PAGES - 1))
        self._store(_COMMANDS, self._commands.address | _256_ENTRIES)
        self._store(_EVENTS, self._events | _256_ENTRIES)
        self._store(_COMMAND_HEAD, 0)
        self._store(_COMMAND_TAIL, 0)
        self._store(_CONTROL, _ENABLE | _EVENT_LOG_ENABLE | _COMMAND_ENABLE)

    def enable(self) -> None:
        """See Iommu: a device table entry with translation."""
        self.join(self._requester)

    def disable(self) -> None:
        """See Iommu: a device table entry without."""
        self._write_entry(self._requester, 0, 0)

    def join(self, requester: int) -> None:
        """See Iommu."""
        translated = self.table.root | LEVELS << 9 | _READ | _WRITE | 0b11  # TV, V
        self._write_entry(requester, translated, _DOMAIN_ID)

    def _write_entry(self, requester: int, low: int, high: int) -> None:
        content = struct.pack("<4Q", low, high, 0, 0)
        self._qtest.write(self._devices + requester * _DTE_SIZE, content)
        self.submit(_INVALIDATE_DEVICE << 60 | requester, 0)
        self.invalidate_all_pages()

    def invalidate(self, logical: int, size: int) -> None:
        """Tell the hardware about a range, by one command."""
        first, last = logical, logical + size - PAGE
        if first == last:
            self._invalidate_pages(logical)
            return
        # The lowest clear bit above the page says how much: 2.4.3, "S".
        order = (first ^ last).bit_length()
        base = first >> order << order
        self._invalidate_pages(base | ((1 << order - 1) - PAGE) | 1)

    def invalidate_all_pages(self) -> None:
        """Forget every translation of our domain."""
        self._invalidate_pages(_ALL_PAGES | 1)

    def _invalidate_pages(self, address: int) -> None:
        directories_too = 2
        low = _INVALIDATE_PAGES << 60 | _DOMAIN_ID << 32
        self.submit(low, address | directories_too)

    def submit(self, low: int, high: int) -> None:
        """Queue one command and a completion wait behind it, and wait."""
        wait = _COMPLETION_WAIT << 60 | self._commands.status | 1  # store
        commands = (struct.pack("<2Q", *command) for command in ((low, high), (wait, 1)))
        self._store(_COMMAND_TAIL, self._commands.put(*commands))
        self._qtest.wait_for(lambda: self._commands.done, "the IOMMU completes a command")

    def events(self) -> list[Event]:
        """Take what the event log holds."""
        head, tail = self._load(_EVENT_HEAD), self._load(_EVENT_TAIL)
        if max(head, tail) >= PAGE:
            raise VmError("the event log's pointers are beyond its end.")
        found = []
        while head != tail:
            low, high = struct.unpack("<2Q", self._qtest.read(self._events + head, 16))
            found.append(Event(low >> 60, low, high))
            head = (head + 16) % PAGE
        self._store(_EVENT_HEAD, head)
        return found

    def faults(self) -> list[IommuFault]:
        """See Iommu: the page faults of the event log.  Raises VmError for other events."""
        found = []
        for event in self.events():
            if event.code != PAGE_FAULT:
                raise VmError(f"an event {event.code:#x} that is no page fault.")
            write = bool(event.low & _FLAG_WRITE)
            found.append(IommuFault(event.low & 0xFFFF, event.high, write, event.code))
        return found

    def _load(self, register: int) -> int:
        return self._qtest.load(REGISTERS + register, 8)

    def _store(self, register: int, value: int) -> None:
        self._qtest.store(REGISTERS + register, value, 8)
