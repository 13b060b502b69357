"""What was seen: checks that passed or failed, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


def grouped(address: int) -> str:
    """An address in hexadecimal, its halves and quarters apart."""
    high, low = address >> 32, f"{address & 0xFFFFFFFF:08x}"
    text = f"{low[:4]}_{low[4:]}"
    return f"0x{high:x}_{text}" if high else f"0x{text}"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold; `detail` says what was seen instead if it did not."""

    name: str
    ok: bool
    detail: str = ""


class Checklist:
    """Collects checks; a failure stops nothing, so that all of them are seen."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def expect(self, name: str, ok: bool, detail: object = "") -> bool:
        """Note a check; returns whether it held."""
        self.checks.append(Check(name, ok, "" if ok else str(detail)))
        return ok

    def equal(self, name: str, found: object, expected: object) -> bool:
        """Note a comparison."""
        return self.expect(name, found == expected, f"found {found}, expected {expected}")

    @property
    def ok(self) -> bool:
        """Whether there were checks, and all held."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """Those that did not."""
        return [check for check in self.checks if not check.ok]


@dataclass(slots=True)
class ObjectEvidence:
    """One memory object's proof. Sizes in bytes, times in seconds."""

    name: str
    type: str
    size: int
    runs: list[list[int]] = field(default_factory=list)
    run_count: int = 0
    logical: int = 0
    mappings: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    checklist: Checklist = field(default_factory=Checklist)

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return self.checklist.ok


@dataclass(slots=True)
class ScenarioEvidence:
    """Something other than an object: an outcome in words, and its checks."""

    name: str
    outcome: str = ""
    checklist: Checklist = field(default_factory=Checklist)

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return self.checklist.ok


@dataclass(slots=True)
class Evidence:
    """A whole run."""

    environment: dict[str, str]
    objects: list[ObjectEvidence] = field(default_factory=list)
    before: list[ScenarioEvidence] = field(default_factory=list)
    after: list[ScenarioEvidence] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Exactly if something was proven, and nothing failed."""
        return bool(self.objects) and all(item.ok for item in self.items())

    def items(self) -> Iterable[ObjectEvidence | ScenarioEvidence]:
        """Everything that has checks."""
        return (*self.before, *self.objects, *self.after)

    @property
    def bytes_verified(self) -> tuple[int, int]:
        """Bytes that the device read, and wrote, correctly."""
        good = [item for item in self.objects if item.ok]
        return sum(item.bytes_read for item in good), sum(item.bytes_written for item in good)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "ok": self.ok,
            "environment": self.environment,
            "seconds": round(self.seconds, 3),
            "before": [_scenario(item) for item in self.before],
            "objects": [_object(item) for item in self.objects],
            "after": [_scenario(item) for item in self.after],
        }


def _scenario(item: ScenarioEvidence) -> dict[str, Any]:
    return {
        "name": item.name,
        "ok": item.ok,
        "outcome": item.outcome,
        "checks": [asdict(check) for check in item.checklist.checks],
    }


def _object(item: ObjectEvidence) -> dict[str, Any]:
    record = {
        name: getattr(item, name)
        for name in ("name", "type", "size", "runs", "run_count", "logical", "mappings")
    }
    return {
        **record,
        "bytes_read": item.bytes_read,
        "bytes_written": item.bytes_written,
        "seconds": round(item.seconds, 3),
        "ok": item.ok,
        "checks": [asdict(check) for check in item.checklist.checks],
    }
