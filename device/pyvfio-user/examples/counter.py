"""A device with two registers: 0x0 counts, 0x4 raises its interrupt when written.

python counter.py /tmp/counter.sock
qemu-system-x86_64 ... -device \
    '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/counter.sock"}}'
"""

import itertools
import signal
import sys

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    IrqType,
    MsixCapability,
    Register,
    RegisterBlock,
    Server,
)

count = itertools.count(1)


def interrupt(_written: int) -> None:
    """Raise the interrupt."""
    device.trigger(IrqType.MSIX, 0)


registers = RegisterBlock(
    [
        Register(0x0, on_read=lambda: next(count) & 0xFFFFFFFF),
        Register(0x4, on_write=interrupt),
    ]
)
config = ConfigSpace(vendor_id=0x1234, device_id=0xC0DE, class_code=0xFF0000)
config.add_capability(MsixCapability(1, table_bar=1, table_offset=0, pba_bar=1, pba_offset=0x800))
device = Device(config, {0: Bar(0x1000, handler=registers), 1: Bar(0x1000)})

if __name__ == "__main__":
    server = Server(device, sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    server.open()
    server.serve()
