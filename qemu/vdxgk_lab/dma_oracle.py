"""A DMA oracle: names the mistake of a driver by what its device could not, or should not, reach.

The device is a pyvfio_user.Device in this process, its driver runs in a guest.
Behind a strict IOMMU the oracle needs nothing more: every map and unmap of the
driver arrives here before the call returns in the guest, in order with the
device's accesses.  :mod:`vdxgk_lab.dma_trace` adds what an IOMMU cannot show.

What it cannot see by itself: an overrun that stays within a page or ends in
the mapping next door; a missing dma_sync_*; a device that uses messages only,
whose accesses QEMU judges; on Intel's IOMMU, a read of memory that was mapped
for writing only (see docs/qemu-findings.md).
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection
from dataclasses import dataclass

from pyvfio_user import Access, Device, DmaFault, FaultReason, IrqType
from vdxgk_lab.errors import LabError


class Bug(enum.Enum):
    """The classic mistakes with the DMA API."""

    USE_AFTER_UNMAP = "the device was given an address after dma_unmap"
    WRONG_DIRECTION = "the direction of the mapping does not allow what the device does"
    SHORT_MAPPING = "less is mapped than the device was told of"
    MISSING_SYNC = "the buffer did not change hands by dma_sync_*_for_cpu or _for_device"
    FORGOTTEN_MASK = "the kernel was not told how many address lines the device has"
    WILD_ADDRESS = "nothing was ever mapped there"


@dataclass(frozen=True)
class Finding:
    """One access that no correct driver asks for."""

    bug: Bug
    address: int
    size: int
    write: bool
    detail: str = ""

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return (
            f"{self.bug.name}: {kind} of {self.size} bytes at {self.address:#x}: "
            f"{self.bug.value}{'; ' if self.detail else ''}{self.detail}"
        )


class DmaBugs(LabError):  # noqa: N818
    """The driver under test has bugs."""


@dataclass(frozen=True)
class DeviceAccess:
    """An access that the device made or tried.

    `interrupts`: how many the device had raised before.
    """

    address: int
    size: int
    write: bool
    interrupts: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size


class DmaOracle:
    """Watches a device; see DeviceWatcher.  Questions may come from any thread."""

    def __init__(self, device: Device, address_bits: int = 64) -> None:
        """Watch from now on.  `address_bits`: how many address lines the device has."""
        self.address_bits = address_bits
        self._device = device
        self._lock = threading.Lock()
        self.restart()
        device.watch(self)

    def restart(self) -> None:
        """Forget everything: another driver is about to be tested."""
        with self._lock:
            self._findings: list[Finding] = []
            self._accesses: list[DeviceAccess] = []
            self._unmapped: list[tuple[int, int]] = []
            self._interrupts = 0

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, in order."""
        with self._lock:
            return list(self._findings)

    @property
    def bugs(self) -> set[Bug]:
        """The kinds of bugs that were found."""
        return {finding.bug for finding in self.findings}

    @property
    def accesses(self) -> list[DeviceAccess]:
        """What the device did so far."""
        with self._lock:
            return list(self._accesses)

    @property
    def interrupts(self) -> int:
        """How many interrupts the device raised."""
        with self._lock:
            return self._interrupts

    def add(self, findings: Collection[Finding]) -> None:
        """Take over what somebody else found."""
        with self._lock:
            self._findings += findings

    def check(self) -> None:
        """Raises DmaBugs, with every finding, unless there is none."""
        if findings := self.findings:
            raise DmaBugs(f"{len(findings)} findings.", self.report())

    def report(self) -> str:
        """Every finding, one to a line."""
        return "\n".join(str(finding) for finding in self.findings)

    # ---- DeviceWatcher -------------------------------------------------------

    def accessed(self, iova: int, size: int, wanted: Access) -> None:
        """See DeviceWatcher."""
        self._note(iova, size, wanted)

    def refused(self, iova: int, size: int, fault: DmaFault) -> None:
        """See DeviceWatcher: a refusal is a finding."""
        self._note(iova, size, fault.access)
        bug, detail = self._diagnosis(iova, fault)
        write = bool(fault.access & Access.WRITE)
        self.add([Finding(bug, iova, size, write, detail)])

    def unmapped(self, iova: int, size: int) -> None:
        """See DeviceWatcher."""
        # What goes while the function may not master the bus is no driver's:
        # firmware and kernel rearrange memory when they boot.
        if self._device.config.bus_master_enabled:
            with self._lock:
                self._unmapped.append((iova, size))

    def triggered(self, irq_type: IrqType, vector: int) -> None:
        """See DeviceWatcher."""
        with self._lock:
            self._interrupts += 1

    def _note(self, iova: int, size: int, wanted: Access) -> None:
        with self._lock:
            write = bool(wanted & Access.WRITE)
            self._accesses.append(DeviceAccess(iova, size, write, self._interrupts))

    def _diagnosis(self, iova: int, fault: DmaFault) -> tuple[Bug, str]:
        address = fault.address
        if address > iova:  # whatever stands in the way there, it is somebody else's
            return Bug.SHORT_MAPPING, f"mapped up to {address:#x}"
        if fault.reason is FaultReason.FORBIDDEN:
            return Bug.WRONG_DIRECTION, "refused by the page's permission"
        for mapping in self._device.dma.mappings():
            if truncated(mapping.iova, mapping.size, address, self.address_bits):
                return Bug.FORGOTTEN_MASK, f"{mapping.iova:#x} is mapped"
        with self._lock:
            unmapped = any(start <= address < start + size for start, size in self._unmapped)
        return (Bug.USE_AFTER_UNMAP if unmapped else Bug.WILD_ADDRESS), ""


def truncated(start: int, size: int, address: int, bits: int) -> bool:
    """Whether a range out of the device's reach holds what `address` may be the low bits of."""
    return start >> bits != 0 and (address - start) % (1 << bits) < size
