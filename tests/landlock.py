"""Tests that need a kernel with Landlock."""

from __future__ import annotations

import landlockpy
import pytest

from vdxgk.sandbox import NEEDED

needs_landlock = pytest.mark.skipif(
    landlockpy.abi_version() < NEEDED, reason=f"this kernel has no Landlock of version {NEEDED}"
)
