"""QEMU for vdxgk: machines, guest images, scenarios."""
