"""A session fed with messages that are almost right: every one gets its answer."""

from __future__ import annotations

import pytest

from pyvfio_user import DmaPolicy
from tests.fuzz.structured import torment


@pytest.mark.parametrize("policy", ["tolerant", "strict"])
@pytest.mark.parametrize("seed", range(3))
def test_every_message_is_answered_and_nothing_leaks(policy: DmaPolicy, seed: int) -> None:
    torment(policy, seed)
