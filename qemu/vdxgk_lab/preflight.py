"""Inspects a paused machine, and refuses what would abort QEMU or deceive a test.

It asks QEMU what it made of the command line, so it is right however the
machine was put together.
"""

from typing import Protocol

from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.qmp import Json

_CONTAINERS = ("/machine/peripheral", "/machine/peripheral-anon")


class Monitor(Protocol):
    """What is needed of a QMP connection."""

    def execute(self, command: str, arguments: dict[str, object] | None = None) -> Json:
        """What QEMU returns for a command."""


def check(monitor: Monitor) -> None:
    """Refuse a machine whose vfio-user devices could not work.

    Raises Misconfigured with the one thing to change.
    """
    devices = _devices(monitor)
    if "vfio-user-pci" not in devices:
        return
    _check_memory(monitor)
    for path in devices.get("intel-iommu", []):
        _check_intel(monitor, path)
    for path in devices.get("amd-iommu", []):
        _check_amd(monitor, path)


def _check_memory(monitor: Monitor) -> None:
    backends = monitor.execute("query-memdev")
    if not backends:
        raise Misconfigured(
            "Guest memory has no backend that the device could share.",
            "Give QEMU -object memory-backend-memfd,id=ram,size=...,share=on "
            "and -machine memory-backend=ram.",
        )
    for backend in backends:
        if not backend["share"]:
            raise Misconfigured(
                "Guest memory is private: the device would read zeros instead of the guest's data.",
                f"Set share=on on the memory backend {backend.get('id', '')}.",
            )


def _check_intel(monitor: Monitor, path: str) -> None:
    if not _property(monitor, path, "caching-mode"):
        raise Misconfigured(
            "intel-iommu runs without caching mode: QEMU would abort "
            "when the guest turns the IOMMU on.",
            "Set caching-mode=on on the intel-iommu device.",
        )
    if _property(monitor, path, "snoop-control"):
        raise Misconfigured(
            "intel-iommu offers snoop control: QEMU would abort when the guest turns the IOMMU on.",
            "Set snoop-control=off on the intel-iommu device.",
        )
    if _property(monitor, path, "fsts"):
        raise Misconfigured(
            "intel-iommu offers first-stage translation: QEMU would not tell the device "
            "what the guest maps.",
            "Set fsts=off on the intel-iommu device.",
        )


def _check_amd(monitor: Monitor, path: str) -> None:
    if not _property(monitor, path, "dma-remap"):
        raise Misconfigured(
            "amd-iommu does not remap DMA: the device would reach all of the guest's memory.",
            "Set dma-remap=on on the amd-iommu device.",
        )


def _devices(monitor: Monitor) -> dict[str, list[str]]:
    """QOM paths of the devices that the command line made, by type."""
    found: dict[str, list[str]] = {}
    for container in _CONTAINERS:
        for entry in monitor.execute("qom-list", {"path": container}):
            kind = str(entry["type"])
            if kind.startswith("child<"):
                path = f"{container}/{entry['name']}"
                found.setdefault(kind[len("child<") : -1], []).append(path)
    return found


def _property(monitor: Monitor, path: str, name: str) -> bool:
    """A boolean property; False where this QEMU has no such property."""
    names = {entry["name"] for entry in monitor.execute("qom-list", {"path": path})}
    return name in names and bool(monitor.execute("qom-get", {"path": path, "property": name}))
