"""Defects of QEMU, each as a reproducer; docs/qemu-findings.md tells the story."""
