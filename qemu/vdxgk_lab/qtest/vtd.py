"""Intel VT-d, legacy mode: the driver's part.

Registers, root and context entries, second-stage entries, descriptors:
Intel Virtualization Technology for Directed I/O, revision 4, chapters 6, 7, 9
and 11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames, IommuFault
from vdxgk_lab.qtest.page_table import CommandQueue, PageTable, TableIommu

REGISTERS = 0xFED9_0000
"""Where q35 has them."""

CAP, ECAP, GCMD, GSTS, RTADDR = 0x08, 0x10, 0x18, 0x1C, 0x20
CCMD, FSTS, IQT, IQA = 0x28, 0x34, 0x88, 0x90

# GCMD and GSTS, 11.4.4
TRANSLATION_ENABLE = 1 << 31
SET_ROOT_TABLE = 1 << 30
QUEUED_INVALIDATION_ENABLE = 1 << 26
_ONE_SHOT = 0x6900_0000  # SRTP, SFL, WBF, SIRTP: GSTS shows them, GCMD must not repeat them

# FSTS, 11.4.7.1
FAULT_OVERFLOW = 1 << 0
FAULT_PENDING = 1 << 1
INVALIDATION_QUEUE_ERROR = 1 << 4

# Fault reasons, table 29
REASON_WRITE = 0x5
REASON_READ = 0x6

INVALIDATE_CONTEXT, INVALIDATE_IOTLB, INVALIDATE_WAIT = 1, 2, 5
_GLOBAL, _DOMAIN, _PAGE_SELECTIVE = 1, 2, 3
_WIDE_DESCRIPTORS = 1 << 11  # IQA.DW
DOMAIN_ID = 1
LEVELS = 4

Invalidation = Literal["queued", "registers"]


class SecondStage:
    """Second-stage entries, 9.8."""

    def directory(self, address: int, level: int) -> int:
        """See Encoding."""
        return address | Access.BOTH

    def leaf(self, address: int, level: int, access: Access) -> int:
        """See Encoding."""
        return address | access | (0x80 if level > 1 else 0)


class RegisterBlock:
    """The registers and what every mode of translation does with them."""

    def __init__(
        self, qtest: QtestClient, frames: Frames, invalidation: Invalidation, *, wide: bool = False
    ) -> None:
        """Touch nothing yet.  `wide`: descriptors of 32 bytes, which scalable mode needs."""
        self._qtest = qtest
        self._frames = frames
        self._queued = invalidation == "queued"
        self._wide = wide
        self._queue: CommandQueue | None = None

    def load(self, register: int, size: int) -> int:
        """Read a register of 4 or 8 bytes."""
        return self._qtest.load(REGISTERS + register, size)

    def store(self, register: int, value: int, size: int) -> None:
        """Write a register of 4 or 8 bytes."""
        self._qtest.store(REGISTERS + register, value, size)

    def enable(self, root: int) -> None:
        """Set the root table and translate; queued invalidation first, if wanted."""
        if self._queued:
            self._queue = CommandQueue(self._qtest, self._frames)
            self.store(IQT, 0, 8)
            self.store(IQA, self._queue.address | (_WIDE_DESCRIPTORS if self._wide else 0), 8)
            self.command(QUEUED_INVALIDATION_ENABLE, True)
        self.store(RTADDR, root, 8)
        self.command(SET_ROOT_TABLE, True)
        self.invalidate_contexts()
        self.invalidate_all()
        self.command(TRANSLATION_ENABLE, True)

    def disable(self) -> None:
        """Translate no more."""
        self.command(TRANSLATION_ENABLE, False)

    def command(self, bit: int, on: bool) -> None:
        """Change one bit of GCMD and wait until GSTS says so."""
        now = self.load(GSTS, 4) & ~_ONE_SHOT
        self.store(GCMD, now | bit if on else now & ~bit, 4)
        self._wait(lambda: bool(self.load(GSTS, 4) & bit) == on, f"GSTS bit {bit:#x}")

    # ---- invalidation, 6.5 and 11.4.8 ----------------------------------------

    def invalidate_contexts(self) -> None:
        """Forget every context entry."""
        if self._queued:
            self.submit(INVALIDATE_CONTEXT | _GLOBAL << 4, 0)
        else:
            self.store(CCMD, 1 << 63 | _GLOBAL << 61, 8)
            self._wait(lambda: not self.load(CCMD, 8) >> 63, "context invalidation")

    def invalidate_all(self) -> None:
        """Forget every translation."""
        self._invalidate_iotlb(_GLOBAL, 0, 0)

    def invalidate_domain(self) -> None:
        """Forget the translations of our domain."""
        self._invalidate_iotlb(_DOMAIN, 0, 0)

    def invalidate_pages(self, logical: int, order: int = 0) -> None:
        """Forget 2^order pages of our domain from `logical` on, which is so aligned."""
        self._invalidate_iotlb(_PAGE_SELECTIVE, logical, order)

    def _invalidate_iotlb(self, granularity: int, logical: int, order: int) -> None:
        if self._queued:
            low = INVALIDATE_IOTLB | granularity << 4 | DOMAIN_ID << 16
            self.submit(low, logical | order)
            return
        registers = (self.load(ECAP, 8) >> 8 & 0x3FF) * 16
        self.store(registers, logical | order, 8)
        self.store(registers + 8, 1 << 63 | granularity << 60 | DOMAIN_ID << 32, 8)
        self._wait(lambda: not self.load(registers + 8, 8) >> 63, "IOTLB invalidation")

    def submit(self, low: int, high: int) -> None:
        """Queue one descriptor and a wait behind it, and wait.  Raises VmError."""
        assert self._queue is not None
        wait = INVALIDATE_WAIT | 1 << 5 | 1 << 32  # write status 1
        size = 32 if self._wide else 16
        descriptors = ((low, high), (wait, self._queue.status))
        tail = self._queue.put(*(struct.pack("<4Q", *d, 0, 0)[:size] for d in descriptors))
        self.store(IQT, tail, 8)
        self._wait(self._is_done, "queued invalidation")

    def _is_done(self) -> bool:
        if self.load(FSTS, 4) & INVALIDATION_QUEUE_ERROR:
            raise VmError("the IOMMU found an error in its invalidation queue.")
        assert self._queue is not None
        return self._queue.done

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        self._qtest.wait_for(condition, what)

    # ---- faults, 7.3 and 11.4.7 ----------------------------------------------

    def faults(self) -> list[IommuFault]:
        """Read and clear the fault recording registers."""
        capabilities = self.load(CAP, 8)
        first = (capabilities >> 24 & 0x3FF) * 16
        count = (capabilities >> 40 & 0xFF) + 1
        found = []
        for register in range(first, first + 16 * count, 16):
            low, high = self.load(register, 8), self.load(register + 8, 8)
            if high >> 63:
                write = not high >> 62 & 1
                reason = high >> 32 & 0xFF
                found.append(IommuFault(high & 0xFFFF, low & ~0xFFF, write, reason))
                self.store(register + 8, 1 << 63, 8)
        self.store(FSTS, FAULT_OVERFLOW, 4)
        return found


class IntelIommu(TableIommu):
    """Legacy mode, one function in one domain of 48 bits.  See Iommu."""

    aperture_end = (1 << 48) - 1

    def __init__(
        self,
        qtest: QtestClient,
        frames: Frames,
        requester: int,
        invalidation: Invalidation = "queued",
    ) -> None:
        """Touch nothing but table memory yet."""
        self._qtest = qtest
        self.registers = RegisterBlock(qtest, frames, invalidation)
        self.table = PageTable(qtest, frames, LEVELS, SecondStage())
        self._root = frames.take()
        contexts = frames.take()
        self._qtest.store(self._root, contexts | 1, 8)
        self._contexts = contexts
        self._requester = requester
        self.attach()

    def attach(self, pass_through: bool = False) -> None:
        """Write the function's context entry (9.3): translated, or passed through."""
        self._write_context(self._requester, 2 << 2 if pass_through else 0)

    def detach(self) -> None:
        """Clear the context entry: nothing is reached any more, once the hardware knows."""
        self._qtest.store(self._contexts + 16 * self._requester, 0, 8)

    def join(self, requester: int) -> None:
        """See Iommu."""
        self._write_context(requester, 0)
        self.registers.invalidate_contexts()
        self.registers.invalidate_all()

    def _write_context(self, requester: int, kind: int) -> None:
        entry = self._contexts + 16 * requester
        address_width = 2  # four levels
        self._qtest.store(entry + 8, address_width | DOMAIN_ID << 8, 8)
        self._qtest.store(entry, self.table.root | kind | 1, 8)

    def enable(self) -> None:
        """See Iommu."""
        self.registers.enable(self._root)

    def disable(self) -> None:
        """See Iommu."""
        self.registers.disable()

    def invalidate(self, logical: int, size: int) -> None:
        """Tell the hardware about a range, by one invalidation."""
        order = max((size - 1).bit_length() - 12, 0)
        while (logical >> 12 >> order << order << 12) + (PAGE << order) < logical + size:
            order += 1
        if order > self.registers.load(CAP, 8) >> 48 & 0x3F:  # maximum address mask value
            self.registers.invalidate_domain()
        else:
            self.registers.invalidate_pages(logical >> 12 >> order << order << 12, order)

    def faults(self) -> list[IommuFault]:
        """See Iommu."""
        return self.registers.faults()
