"""virtio-iommu: the driver's part.

Virtual I/O Device (VIRTIO) Version 1.2, section 5.13.
"""

from __future__ import annotations

import enum
import struct

from vdxgk_lab.errors import VmError
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Access, Frames, IommuFault
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.virtio_pci import DEVICE_CONFIG, VERSION_1, VirtioDevice

# Feature bits, 5.13.3
INPUT_RANGE, DOMAIN_RANGE, MAP_UNMAP, BYPASS_CONFIG = 1 << 0, 1 << 1, 1 << 2, 1 << 6

_ATTACH, _DETACH, _MAP, _UNMAP = 1, 2, 3, 4
_REQUESTS, _EVENTS = 0, 1
_INPUT_RANGE_END = 16  # in struct virtio_iommu_config, 5.13.4
_BYPASS = 36
_FAULT = struct.Struct("<B3xIIIQ")
_FAULT_READ, _FAULT_WRITE = 1 << 0, 1 << 1
_LENT_BUFFERS = 32

REASON_UNKNOWN, REASON_MAPPING = 0, 2
"""Fault reasons, 5.13.6.9."""


class Status(enum.IntEnum):
    """What a request is answered, 5.13.6."""

    OK = 0
    IOERR = 1
    UNSUPP = 2
    DEVERR = 3
    INVAL = 4
    RANGE = 5
    NOENT = 6
    FAULT = 7
    NOMEM = 8


class RequestFailed(VmError):  # noqa: N818
    """The device answered a request with an error."""

    def __init__(self, request: str, status: Status) -> None:
        """Both, for a person."""
        super().__init__(f"virtio-iommu answered {request} with {status.name}.")
        self.status = status


class VirtioIommu:
    """One function in one domain.  See Iommu; there are no tables and no leaves."""

    def __init__(
        self,
        qtest: QtestClient,
        frames: Frames,
        requester: int,
        function: PciFunction,
        window: MmioWindow,
        *,
        bypass: bool = False,
    ) -> None:
        """Start the device.  `bypass`: functions in no domain reach all of memory."""
        self._qtest = qtest
        self._requester = requester
        self.device = VirtioDevice(qtest, frames, function, window)
        features = VERSION_1 | INPUT_RANGE | DOMAIN_RANGE | MAP_UNMAP | BYPASS_CONFIG
        if self.device.begin(features) != features:
            raise VmError("this virtio-iommu lacks a feature.")
        self._queue = self.device.queue(_REQUESTS)
        self._events = self.device.queue(_EVENTS)
        self.device.finish()
        self._events.lend(_LENT_BUFFERS, _FAULT.size)
        self.aperture_end = qtest.load(self.device.place(DEVICE_CONFIG) + _INPUT_RANGE_END, 8)
        self.set_bypass(bypass)

    def set_bypass(self, on: bool) -> None:
        """What functions in no domain may do (5.13.4, `bypass`)."""
        self._qtest.store(self.device.place(DEVICE_CONFIG) + _BYPASS, int(on), 1)

    def enable(self) -> None:
        """See Iommu: attach the function to the domain."""
        self.join(self._requester)

    def disable(self) -> None:
        """See Iommu: detach the function, with bypass allowed."""
        self.set_bypass(True)
        self.detach()

    def attach(self, domain: int, requester: int) -> None:
        """Put a function into a domain; it leaves the one where it is."""
        self._request("ATTACH", struct.pack("<B3xIII4x", _ATTACH, domain, requester, 0))

    def detach(self, domain: int = 1) -> None:
        """Take the function out of its domain."""
        self._request("DETACH", struct.pack("<B3xII8x", _DETACH, domain, self._requester))

    def join(self, requester: int) -> None:
        """See Iommu."""
        self.attach(1, requester)

    def map(
        self, logical: int, physical: int, size: int, access: Access = Access.BOTH, leaf: int = PAGE
    ) -> None:
        """See Iommu.  Raises RequestFailed."""
        content = struct.pack(
            "<B3xIQQQI", _MAP, 1, logical, logical + size - 1, physical, int(access)
        )
        self._request("MAP", content)

    def unmap(self, logical: int, size: int, leaf: int = PAGE) -> None:
        """See Iommu.  Raises RequestFailed, RANGE where a mapping would be cut."""
        content = struct.pack("<B3xIQQ4x", _UNMAP, 1, logical, logical + size - 1)
        self._request("UNMAP", content)

    def faults(self) -> list[IommuFault]:
        """See Iommu."""
        found = []
        for content in self._events.collect(_FAULT.size):
            reason, flags, endpoint, _, address = _FAULT.unpack(content)
            known = flags & (_FAULT_READ | _FAULT_WRITE)
            write = bool(flags & _FAULT_WRITE) if known else None
            found.append(IommuFault(endpoint, address, write, reason))
        return found

    def _request(self, name: str, content: bytes) -> None:
        status = Status(self._queue.request(content, 4)[0])
        if status is not Status.OK:
            raise RequestFailed(name, status)
