"""The vfio-user protocol: PCI devices in Python for stock QEMU.

A device author needs `ConfigSpace`, `Bar` and `Device`, and a `Server` to
connect QEMU to; everything else comes as it is needed.
"""

from .backing import Backing, SharedMemory
from .capabilities import (
    ExpressCapability,
    MsiCapability,
    MsixCapability,
    PowerManagementCapability,
    SerialNumberCapability,
    VendorCapability,
)
from .client import Client, Reply
from .device import Device, DeviceObserver
from .dma import DmaPolicy, DmaStatistics, DmaTable, Mapping
from .dma_access import DmaAccess, Span, Translation
from .errors import (
    Access,
    ConnectionLost,
    DmaFault,
    FaultReason,
    LocalProtocolError,
    MessageDmaError,
    RemoteProtocolError,
    ServerError,
    VfioUserError,
)
from .irq import IrqType
from .log import Logger
from .message_dma import MessageDma
from .migration import Migratable, MigrationState
from .pci import Capability, ConfigSpace, ExtendedCapability
from .region import Bar, IoEventfd, RegionHandler
from .registers import Register, RegisterBlock
from .trace import TraceError, read_trace
from .transport import Server
from .watch import DeviceWatcher

__all__ = [
    "Access",
    "Backing",
    "Bar",
    "Capability",
    "Client",
    "ConfigSpace",
    "ConnectionLost",
    "Device",
    "DeviceObserver",
    "DeviceWatcher",
    "DmaAccess",
    "DmaFault",
    "DmaPolicy",
    "DmaStatistics",
    "DmaTable",
    "ExpressCapability",
    "ExtendedCapability",
    "FaultReason",
    "IoEventfd",
    "IrqType",
    "LocalProtocolError",
    "Logger",
    "Mapping",
    "MessageDma",
    "MessageDmaError",
    "Migratable",
    "MigrationState",
    "MsiCapability",
    "MsixCapability",
    "PowerManagementCapability",
    "RegionHandler",
    "Register",
    "RegisterBlock",
    "RemoteProtocolError",
    "Reply",
    "SerialNumberCapability",
    "Server",
    "ServerError",
    "SharedMemory",
    "Span",
    "TraceError",
    "Translation",
    "VendorCapability",
    "VfioUserError",
    "read_trace",
]
