"""The vfio-user protocol: PCI devices in Python for stock QEMU."""
