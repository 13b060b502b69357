"""What the reproducers have in common.

A case raises Defect at the symptom and nowhere else, so that any other
failure is red.  Where QEMU is mended, the mark turns red too.  To see one:

    .venv/bin/python -m pytest tests/qtest/findings --runxfail -k NAME
"""

from __future__ import annotations

import pytest

from tests.qtest.lane import BUFFER, Lane
from vdxgk.channel import layout
from vdxgk_lab.qtest.iommu import LARGE

LOGICAL = 0x2_2340_0000
OTHER = BUFFER + 8 * LARGE
MESSAGES = layout.ENGINE_MESSAGES


class Defect(Exception):  # noqa: N818
    """The symptom, exactly."""


finding = pytest.mark.xfail(raises=Defect, strict=True, reason="a defect of QEMU")


def ranges(lane: Lane) -> str:
    """The device's DMA table, in words."""
    return ", ".join(f"{iova:#x}+{size:#x}/{access}" for iova, size, access in lane.mapped())
