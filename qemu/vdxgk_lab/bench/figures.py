"""What a benchmark finds: repetitions of a floor and of ours, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Measure = Callable[[], float]
"""One repetition: seconds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    `floor` and `ours` are seconds for one operation, a value for each
    repetition, taken in turns so that what else the machine does hits both.
    The budget is the most that the median ratio may be.
    """

    name: str
    against: str
    floor: list[float]
    ours: list[float]
    budget: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours over floor, repetition by repetition."""
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)

    @property
    def within_budget(self) -> bool | None:
        """Whether the median keeps the budget; None without one."""
        return None if self.budget is None else self.ratio <= self.budget

    def as_json(self) -> dict[str, Any]:
        """Everything, for a history of runs."""
        return {
            "name": self.name,
            "against": self.against,
            "floor_seconds": self.floor,
            "ours_seconds": self.ours,
            "ratio": self.ratio,
            "ratio_spread": [min(self.ratios), max(self.ratios)],
            "budget": self.budget,
        }


def timed(work: Callable[[], object]) -> Measure:
    """Seconds that `work` takes."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def compare(
    name: str,
    against: str,
    measures: tuple[Measure, Measure],
    repetitions: int,
    budget: float | None = None,
) -> Figure:
    """Measure floor and ours in turns, after one round that does not count."""
    floor, ours = measures
    floor()
    ours()
    pairs = [(floor(), ours()) for _ in range(repetitions)]
    return Figure(name, against, [p[0] for p in pairs], [p[1] for p in pairs], budget)
