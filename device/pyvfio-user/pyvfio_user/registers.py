"""Registers of a device, declared: offset, width, masks, access sizes, what happens.

A `RegisterBlock` is a handler for a `Bar`.  Like hardware, it answers what
makes no sense without complaint: an access that no register takes reads as
all ones, and a write of that kind is lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

NOTHING = 0xFF  # what a read of nothing gives, in every byte


class Register:
    """One little-endian register.

    `value` is what it holds; the device may set it at any time, from any
    thread.  A write of the guest changes the bits of `writable` and then
    clears the bits of `clearable` that were written as 1.
    """

    def __init__(
        self,
        offset: int,
        width: int = 4,
        *,
        initial: int = 0,
        writable: int = 0,
        clearable: int = 0,
        sizes: Sequence[int] | None = None,
        on_read: Callable[[], int] | None = None,
        on_write: Callable[[int], object] | None = None,
    ) -> None:
        """Declare a register at `offset`, of `width` bytes: 1, 2, 4 or 8.

        `sizes` are the sizes of access that it takes, in bytes, each aligned
        to itself; without, only the whole register.  `on_read` gives the value
        that a read sees instead of `value`.  `on_write` is called after a
        write with the bits that were written, those outside a smaller access
        being 0, whatever the masks say.

        Raises ValueError for an offset that is no multiple of the width, a
        size that is no part of it, or a value or mask that does not fit.
        """
        if width not in (1, 2, 4, 8) or offset < 0 or offset % width:
            raise ValueError(f"a register of {width} bytes at {offset:#x}")
        for name, bits in (("initial", initial), ("writable", writable), ("clearable", clearable)):
            if not 0 <= bits < 1 << 8 * width:
                raise ValueError(f"{name} {bits:#x} of a register of {width} bytes")
        self.offset = offset
        self.width = width
        self.initial = initial
        self.writable = writable
        self.clearable = clearable
        self.sizes = frozenset(sizes or (width,))
        if not self.sizes <= {1, 2, 4, 8} or max(self.sizes) > width:
            raise ValueError(f"access sizes {sorted(self.sizes)} of {width} bytes")
        self.on_read = on_read
        self.on_write = on_write
        self.value = initial

    def read(self, offset: int, count: int) -> bytes:
        """Serve an access that the register takes."""
        value = self.value if self.on_read is None else self.on_read()
        start = offset - self.offset
        return value.to_bytes(self.width, "little")[start : start + count]

    def write(self, offset: int, data: bytes) -> None:
        """Serve an access that the register takes."""
        shift = 8 * (offset - self.offset)
        lanes = ((1 << 8 * len(data)) - 1) << shift
        written = int.from_bytes(data, "little") << shift
        changed = self.writable & lanes
        self.value = ((self.value & ~changed) | (written & changed)) & ~(written & self.clearable)
        if self.on_write is not None:
            self.on_write(written)

    def takes(self, offset: int, count: int) -> bool:
        """Whether an access is one of those declared."""
        return count in self.sizes and not offset % count and offset + count <= self.end

    @property
    def end(self) -> int:
        """The first offset behind it."""
        return self.offset + self.width


class RegisterBlock:
    """The registers of a BAR; `block[offset]` is the register at an offset."""

    def __init__(self, registers: Iterable[Register]) -> None:
        """Take the registers.  Raises ValueError if two overlap."""
        self._registers = sorted(registers, key=lambda register: register.offset)
        self._offsets = [register.offset for register in self._registers]
        for register, following in zip(self._registers, self._registers[1:], strict=False):
            if following.offset < register.end:
                raise ValueError(f"two registers at {following.offset:#x}")

    def __getitem__(self, offset: int) -> Register:
        """Return the register that begins there.  Raises KeyError."""
        register = self._at(offset)
        if register is None or register.offset != offset:
            raise KeyError(f"no register at {offset:#x}")
        return register

    def read(self, offset: int, count: int) -> bytes:
        """Serve a read."""
        register = self._at(offset)
        if register is None or not register.takes(offset, count):
            return bytes([NOTHING]) * count
        return register.read(offset, count)

    def write(self, offset: int, data: bytes) -> None:
        """Serve a write."""
        register = self._at(offset)
        if register is not None and register.takes(offset, len(data)):
            register.write(offset, data)

    def reset(self) -> None:
        """Give every register its initial value; no callback is called."""
        for register in self._registers:
            register.value = register.initial

    def _at(self, offset: int) -> Register | None:
        position = bisect_right(self._offsets, offset) - 1
        if position < 0 or offset >= self._registers[position].end:
            return None
        return self._registers[position]
