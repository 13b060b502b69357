"""What one guest may hold at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quotas:
    """Beyond these: STATUS_INSUFFICIENT_RESOURCES, for commitment STATUS_COMMITMENT_LIMIT."""

    objects: int = 4096
    lists: int = 16384
    cpu_mappings: int = 4096
    donated_bytes: int = 16 << 30
    reserve_bytes: int = 16 << 20
    """Idle donated memory that the backend keeps for the next object."""
    committed_bytes: int = 16 << 30
    """Sections together, backed or not; what the guest has of RAM bounds them too."""
