"""Notes what happens to a device, and passes it on."""

from __future__ import annotations

from pyvfio_user import DeviceObserver, Mapping
from vdxgk.audit.records import Kind
from vdxgk.audit.writer import AuditWriter

MAX_FILES = 1000
"""Files told apart; a client that sends more is hostile, and gets one number for the others."""


class AuditObserver(DeviceObserver):
    """Stands before a device's own observer::

    device.observer = AuditObserver(AuditWriter(path), device.observer)
    """

    def __init__(self, writer: AuditWriter, observer: DeviceObserver) -> None:
        """Note in `writer`, pass on to `observer`."""
        self._writer = writer
        self._observer = observer
        self._files: dict[tuple[int, int], int] = {}

    def connected(self) -> None:
        """See DeviceObserver."""
        self._files.clear()
        self._writer.add(Kind.CONNECTED)
        self._observer.connected()

    def described(self) -> None:
        """See DeviceObserver."""
        self._writer.add(Kind.DESCRIBED)
        self._observer.described()

    def reset(self) -> None:
        """See DeviceObserver."""
        self._writer.add(Kind.RESET)
        self._observer.reset()

    def disconnected(self) -> None:
        """See DeviceObserver."""
        self._writer.add(Kind.DISCONNECTED)
        self._observer.disconnected()

    def dma_mapped(self, mapping: Mapping) -> None:
        """See DeviceObserver."""
        self._writer.add(
            Kind.MAPPED,
            mapping.iova,
            mapping.end - 1,
            access=int(mapping.access),
            file=self._file(mapping),
            offset=mapping.offset,
        )
        self._observer.dma_mapped(mapping)

    def dma_unmapped(self, iova: int, size: int, removed: int) -> None:
        """See DeviceObserver."""
        if removed:
            self._writer.add(Kind.UNMAPPED, iova, iova + size - 1)
        self._observer.dma_unmapped(iova, size, removed)

    def _file(self, mapping: Mapping) -> int:
        if mapping.backing is None:
            return 0
        identity = mapping.backing.identity
        number = self._files.get(identity)
        if number is None:
            number = len(self._files) + 1
            if number > MAX_FILES:
                return number
            self._files[identity] = number
        return number
