"""Intel VT-d, scalable mode: context, PASID directory and PASID table entries.

Intel Virtualization Technology for Directed I/O, revision 4, sections 9.2 to
9.7.  Requests without PASID, one domain, either stage.
"""

from __future__ import annotations

from typing import Literal

from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames, IommuFault
from vdxgk_lab.qtest.page_table import Encoding, PageTable, TableIommu
from vdxgk_lab.qtest.vtd import DOMAIN_ID, LEVELS, RegisterBlock, SecondStage

Stage = Literal["first", "second"]

_SCALABLE = 1 << 10  # RTADDR.TTM
_INVALIDATE_PASID_IOTLB = 6 | 2 << 4  # all of one PASID's pages, in one domain
_INVALIDATE_PASID_CACHE = 7 | 3 << 4  # everything


class FirstStage:
    """First-stage entries, 9.9: those of the processor's own paging."""

    def directory(self, address: int, level: int) -> int:
        """See Encoding."""
        return address | 0x7  # present, writable, user

    def leaf(self, address: int, level: int, access: Access) -> int:
        """See Encoding.  There are no entries that can be written only."""
        writable = 0x2 if access & Access.WRITE else 0
        return address | 0x5 | writable | (0x80 if level > 1 else 0)


class ScalableIommu(TableIommu):
    """One function in one domain of four levels.  See Iommu."""

    def __init__(self, qtest: QtestClient, frames: Frames, requester: int, stage: Stage) -> None:
        """Write the tables; the registers are untouched."""
        self._qtest = qtest
        self._stage = stage
        self.registers = RegisterBlock(qtest, frames, "queued", wide=True)
        encoding: Encoding = FirstStage() if stage == "first" else SecondStage()
        self.table = PageTable(qtest, frames, LEVELS, encoding)
        # The upper half of a first-stage space is the kernel's: addresses are sign-extended.
        self.aperture_end = (1 << (47 if stage == "first" else 48)) - 1
        self._root = frames.take()
        self._contexts = frames.take(2)
        self._directory = frames.take()
        self.pasid_entry = pasids = frames.take()
        for half in range(2):
            self._qtest.store(self._root + 8 * half, self._contexts + PAGE * half | 1, 8)
        self._qtest.store(self._directory, pasids | 1, 8)
        if stage == "first":
            self._qtest.store(pasids + 16, self.table.root, 8)
            entry = 1 << 6
        else:
            entry = 2 << 6 | self.table.root
        self._qtest.store(pasids + 8, DOMAIN_ID, 8)
        # The address width, four levels, is of the second stage; QEMU uses it for both.
        self._qtest.store(pasids, entry | 2 << 2 | 1, 8)
        self._qtest.store(self._contexts + 32 * requester, self._directory | 1, 8)

    def enable(self) -> None:
        """See Iommu."""
        self.registers.enable(self._root | _SCALABLE)

    def disable(self) -> None:
        """See Iommu."""
        self.registers.disable()

    def join(self, requester: int) -> None:
        """See Iommu."""
        self._qtest.store(self._contexts + 32 * requester, self._directory | 1, 8)
        self.registers.invalidate_contexts()
        self.registers.submit(_INVALIDATE_PASID_CACHE, 0)
        self.registers.invalidate_all()

    def invalidate(self, logical: int, size: int) -> None:
        """Tell the hardware that our domain changed, as each stage asks for it (6.5.2)."""
        if self._stage == "first":
            self.registers.submit(_INVALIDATE_PASID_IOTLB | DOMAIN_ID << 16, 0)
        else:
            self.registers.invalidate_domain()

    def faults(self) -> list[IommuFault]:
        """See Iommu."""
        return self.registers.faults()
