"""A device with two registers: 0x0 counts, 0x4 raises its interrupt when written.

python counter.py /tmp/counter.sock
qemu-system-x86_64 ... -device \
    '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/counter.sock"}}'
"""

import signal
import sys

from pyvfio_user import Bar, ConfigSpace, Device, IrqType, MsixCapability, Server


class Counter:
    """Register 0x0 gives a new number at each read."""

    def __init__(self) -> None:
        self.value = 0

    def read(self, offset: int, count: int) -> bytes:
        """Count."""
        if (offset, count) != (0, 4):
            return b"\xff" * count
        self.value = (self.value + 1) & 0xFFFFFFFF
        return self.value.to_bytes(4, "little")

    def write(self, offset: int, data: bytes) -> None:
        """Interrupt."""
        if offset == 4:
            device.trigger(IrqType.MSIX, 0)


config = ConfigSpace(vendor_id=0x1234, device_id=0xC0DE, class_code=0xFF0000)
config.add_capability(MsixCapability(1, table_bar=1, table_offset=0, pba_bar=1, pba_offset=0x800))
device = Device(config, {0: Bar(0x1000, handler=Counter()), 1: Bar(0x1000)})

if __name__ == "__main__":
    server = Server(device, sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    server.open()
    server.serve()
