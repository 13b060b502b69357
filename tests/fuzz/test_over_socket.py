"""A served device, tormented for a while."""

from __future__ import annotations

import pytest

from pyvfio_user import DmaPolicy

from .over_socket import torment


@pytest.mark.parametrize("policy", ["tolerant", "strict"])
def test_every_message_is_answered_and_every_client_served(policy: DmaPolicy) -> None:
    torment(policy, 1, 3000)
