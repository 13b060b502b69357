"""The display: what QEMU's bochs-display offers, and how its picture is read.

Stock firmware and stock drivers know this adapter (QEMU's
docs/specs/standard-vga.rst, "PCI spec" and "memory BAR"): nothing here is of
our own making but the EDID's name.
"""
