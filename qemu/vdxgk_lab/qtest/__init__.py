"""QEMU without an operating system: Python is the guest, through `-accel qtest`.

No processor runs.  Python programs PCI functions and IOMMUs as a kernel
would, in guest memory, and sees every effect of every step.
"""
