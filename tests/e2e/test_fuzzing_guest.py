"""A hostile guest at a live server: see tests/fuzz/live_guest.py, which is the long version."""

from __future__ import annotations

import pytest

from tests.fuzz import live_guest
from vdxgk_lab.run_directory import RunDirectory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STEPS = 30_000


def test_a_guest_that_torments_the_device_costs_it_nothing(vdxgk_run: RunDirectory) -> None:
    done = live_guest.run(vdxgk_run.path, live_guest.prepare(), STEPS, seed=1)
    assert done["entries"] > STEPS // 4
    assert done["accesses"] > STEPS // 4
    assert done["good"]
