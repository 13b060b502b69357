"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture
def c_compiler() -> list[str]:
    """A C compiler of the host, with objcopy; skipped without, which CI does not accept."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or shutil.which("objcopy") is None:
        reason = "no C compiler on this host: apt-get install gcc"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return [compiler]
