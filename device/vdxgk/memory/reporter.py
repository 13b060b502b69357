"""Who hears of what Windows would stop or log for."""

from __future__ import annotations

from typing import Protocol

from vdxgk.memory.ddi import Bugcheck
from vdxgk.memory.remapping import RemapFailure


class Reporter(Protocol):
    """The adapter, which tells the guest and the log."""

    def remap_failure(self, adl: int, failure: RemapFailure) -> None:
        """A commit or release check failed."""

    def bugcheck(self, code: Bugcheck, parameter1: int, reason: str) -> None:
        """A rule was broken whose breach stops Windows."""

    def exclusive_access(self, begun: bool) -> None:
        """Exclusive access has begun, or is over: within it, no DMA."""

    def memory_surplus(self) -> None:
        """RECLAIM would return blocks now."""
