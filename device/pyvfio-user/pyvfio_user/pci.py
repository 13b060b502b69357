"""PCI configuration space: registers with write masks, BARs, capabilities.

Offsets and bit names are those of the PCI Local Bus Specification 3.0,
section 6.1 and 6.2.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .region import Bar

CONFIG_SIZE = 256
EXPRESS_CONFIG_SIZE = 4096
BARS = 6

VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION_ID = 0x08
CLASS_CODE = 0x09
CACHE_LINE_SIZE = 0x0C
LATENCY_TIMER = 0x0D
BAR0 = 0x10
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
ROM_BAR = 0x30
CAPABILITIES_POINTER = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
FIRST_CAPABILITY = 0x40
FIRST_EXTENDED_CAPABILITY = 0x100

ROM_ENABLE = 0x1
LEAST_ROM = 2048  # the expansion ROM register has address bits 31:11

COMMAND_MEMORY = 0x0002
COMMAND_BUS_MASTER = 0x0004
COMMAND_WRITABLE = 0x0547  # I/O, memory, bus master, parity, SERR#, INTx disable
STATUS_CAPABILITIES = 0x0010
STATUS_CLEARABLE = 0xF900  # write 1 to clear

EXTENDED_HEADER = struct.Struct("<I")  # ID 15:0, version 19:16, next 31:20


class Capability(Protocol):
    """An entry of the capability list."""

    @property
    def capability_id(self) -> int:
        """The capability ID (0..255)."""
        ...

    def body(self) -> bytes:
        """What follows the ID and the pointer to the next capability."""
        ...

    def write_mask(self) -> bytes:
        """Which bits of the body the guest can write; a shorter one is padded with 0."""
        ...


class ExtendedCapability(Protocol):
    """An entry of the extended capability list (PCI Express Base Specification, 7.6)."""

    @property
    def extended_id(self) -> int:
        """The capability ID (0..65535)."""
        ...

    @property
    def version(self) -> int:
        """The capability's version (1..15)."""
        ...

    def body(self) -> bytes:
        """What follows the 4-byte header."""
        ...


class ConfigSpace:
    """The configuration space of a type 0 function, as the client reads it."""

    def __init__(
        self,
        vendor_id: int,
        device_id: int,
        class_code: int,
        *,
        revision: int = 0,
        subsystem_vendor_id: int = 0,
        subsystem_id: int = 0,
        interrupt_pin: int = 0,
        size: int = CONFIG_SIZE,
    ) -> None:
        """Declare a function.

        `class_code` has 24 bits: class, subclass, programming interface.
        `interrupt_pin` is 0 (none) to 4 (INTD#).  `size` is 256, or 4096 for
        a PCI Express function.

        Raises ValueError for a value out of range.
        """
        if size not in (CONFIG_SIZE, EXPRESS_CONFIG_SIZE):
            raise ValueError(f"configuration space of {size} bytes")
        if not 0 <= interrupt_pin <= 4:
            raise ValueError(f"interrupt pin {interrupt_pin}")
        self.size = size
        self.interrupt_pin = interrupt_pin
        self.capabilities: list[tuple[int, Capability]] = []
        self._initial = bytearray(size)
        self._writable = bytearray(size)
        self._clearable = bytearray(size)
        self._next_capability = FIRST_CAPABILITY
        self._next_extended = FIRST_EXTENDED_CAPABILITY
        self._last_extended = 0
        self._last_link = CAPABILITIES_POINTER
        self._declare(VENDOR_ID, 2, vendor_id)
        self._declare(DEVICE_ID, 2, device_id)
        self._declare(COMMAND, 2, 0, writable=COMMAND_WRITABLE)
        self._declare(STATUS, 2, 0, clearable=STATUS_CLEARABLE)
        self._declare(REVISION_ID, 1, revision)
        self._declare(CLASS_CODE, 3, class_code)
        self._declare(CACHE_LINE_SIZE, 1, 0, writable=0xFF)
        self._declare(LATENCY_TIMER, 1, 0, writable=0xFF)
        self._declare(SUBSYSTEM_VENDOR_ID, 2, subsystem_vendor_id)
        self._declare(SUBSYSTEM_ID, 2, subsystem_id)
        self._declare(INTERRUPT_LINE, 1, 0, writable=0xFF)
        self._declare(INTERRUPT_PIN, 1, interrupt_pin)
        self._bytes = bytearray(self._initial)

    @property
    def bus_master_enabled(self) -> bool:
        """Whether the guest allows the device to start accesses (COMMAND, bit 2)."""
        return bool(self._bytes[COMMAND] & COMMAND_BUS_MASTER)

    @property
    def memory_enabled(self) -> bool:
        """Whether the device decodes its memory BARs (COMMAND, bit 1)."""
        return bool(self._bytes[COMMAND] & COMMAND_MEMORY)

    def set_status(self, bits: int) -> None:
        """Set error bits of STATUS, which the guest clears by writing 1 (section 6.2.3).

        Raises ValueError for any other bit.
        """
        if bits & ~STATUS_CLEARABLE:
            raise ValueError(f"STATUS bits {bits:#x}")
        value = int.from_bytes(self._bytes[STATUS : STATUS + 2], "little") | bits
        self._bytes[STATUS : STATUS + 2] = value.to_bytes(2, "little")

    def add_capability(self, capability: Capability) -> int:
        """Append to the capability list; return the capability's offset.

        Raises ValueError when the first 256 bytes are full.
        """
        body = capability.body()
        offset = self._next_capability
        end = offset + 2 + len(body)
        if end > CONFIG_SIZE:
            raise ValueError("no room for the capability")
        self._declare(STATUS, 2, STATUS_CAPABILITIES, clearable=STATUS_CLEARABLE)
        self._declare(self._last_link, 1, offset)
        self._declare(offset, 1, capability.capability_id)
        self._initial[offset + 2 : end] = body
        mask = capability.write_mask()[: len(body)]
        self._writable[offset + 2 : offset + 2 + len(mask)] = mask
        self._last_link = offset + 1
        self._next_capability = (end + 3) & ~3
        self.capabilities.append((offset, capability))
        self.reset()
        return offset

    def add_extended_capability(self, capability: ExtendedCapability) -> int:
        """Append to the extended list; return the offset.  Read-only for the guest.

        Raises ValueError without room: a space of 256 bytes has none.
        """
        body = capability.body()
        offset = self._next_extended
        end = offset + EXTENDED_HEADER.size + len(body)
        if end > self.size:
            raise ValueError("no room for the extended capability")
        header = capability.extended_id | capability.version << 16
        EXTENDED_HEADER.pack_into(self._initial, offset, header)
        self._initial[offset + EXTENDED_HEADER.size : end] = body
        if self._last_extended:
            (last,) = EXTENDED_HEADER.unpack_from(self._initial, self._last_extended)
            EXTENDED_HEADER.pack_into(self._initial, self._last_extended, last | offset << 20)
        self._last_extended = offset
        self._next_extended = (end + 3) & ~3
        self.reset()
        return offset

    def place_bar(self, index: int, bar: Bar) -> None:
        """Declare a BAR's type bits, and its address bits as writable."""
        address_bits = ~(bar.size - 1)
        low = BAR0 + 4 * index
        self._declare(low, 4, bar.type_bits, writable=address_bits & 0xFFFF_FFF0)
        if bar.is_64bit:
            self._declare(low + 4, 4, 0, writable=(address_bits >> 32) & 0xFFFF_FFFF)
        self.reset()

    def place_rom(self, size: int) -> None:
        """Declare the expansion ROM register (6.2.5.2); `size` is a power of two from 2048 on.

        Raises ValueError for another size.
        """
        if not LEAST_ROM <= size <= 1 << 31 or size & (size - 1):
            raise ValueError(f"expansion ROM of {size} bytes is no power of two from {LEAST_ROM}")
        self._declare(ROM_BAR, 4, 0, writable=(-size & 0xFFFF_FFFF) | ROM_ENABLE)
        self.reset()

    def read(self, offset: int, count: int) -> bytes:
        """Read registers; the range is within the space."""
        return bytes(self._bytes[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Write what is writable, clear what a 1 clears."""
        for position, byte in enumerate(data, offset):
            writable = self._writable[position]
            value = (self._bytes[position] & ~writable) | (byte & writable)
            self._bytes[position] = value & ~(byte & self._clearable[position])

    def reset(self) -> None:
        """Return every register to its initial value."""
        self._bytes = bytearray(self._initial)

    def save(self) -> bytes:
        """Return every register, for `load` of an equal device."""
        return bytes(self._bytes)

    def load(self, saved: bytes) -> None:
        """Take the registers of an equal device.

        Raises ValueError, and changes nothing, if what nobody can write differs.
        """
        if len(saved) != self.size:
            raise ValueError(f"configuration space of {len(saved)} bytes, not {self.size}")
        for offset, (byte, initial) in enumerate(zip(saved, self._initial, strict=True)):
            if (byte ^ initial) & ~(self._writable[offset] | self._clearable[offset]):
                raise ValueError(f"another device: configuration space differs at {offset:#x}")
        self._bytes = bytearray(saved)

    def _declare(
        self, offset: int, size: int, value: int, *, writable: int = 0, clearable: int = 0
    ) -> None:
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"{value:#x} does not fit the {size} bytes at {offset:#x}")
        self._initial[offset : offset + size] = value.to_bytes(size, "little")
        self._writable[offset : offset + size] = writable.to_bytes(size, "little")
        self._clearable[offset : offset + size] = clearable.to_bytes(size, "little")
