"""What an audit found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vdxgk.audit.records import Kind
from vdxgk_lab.audit import reach
from vdxgk_lab.audit.history import Class, Fate, History, Pieces
from vdxgk_lab.audit.log import AuditLog
from vdxgk_lab.audit.reach import Curve

PAGE = 4096
SHORTEST_GAP = 20_000_000
"""Nanoseconds; a class of mappings that is gone for less is still there, for phases."""
PLACED = (Class.IDENTITY, Class.TRANSLATED)
_ACCESSES = {1: "read", 2: "write", 3: "both"}
_QUANTILES = {"shortest": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "longest": 1.0}


@dataclass(frozen=True)
class Phase:
    """A time in which the same classes of mappings were there.  Seconds since the start; bytes."""

    name: str
    start: float
    end: float
    reachable: int
    """The most at once."""
    mappings: int
    """The most at once."""


@dataclass(frozen=True)
class Listed:
    """A mapping by itself.  Addresses and sizes in bytes; `since` in seconds; its Fate."""

    logical: int
    physical: int | None
    size: int
    access: str
    since: float
    fate: str


@dataclass(frozen=True)
class Moment:
    """What was reachable at a mark or another moment; seconds, bytes."""

    name: str
    time: float
    mappings: int
    reachable: int


@dataclass(frozen=True)
class Translations:
    """All translated mappings: numbers, distinct pages of memory, lifetimes in seconds."""

    mappings: int
    pages: int
    most_mappings: int
    most_reachable: int
    lifetimes: dict[str, float]
    accesses: dict[str, int]


@dataclass(frozen=True)
class Report:
    """The analysis of one log."""

    state: str
    complete: bool
    seconds: float
    events: int
    clients: int
    ram: int
    """Bytes of guest RAM of the last client, as far as its layout was seen; 0: it was not."""
    untranslated_seconds: float
    """How long all of it, or most, was reachable at its own addresses."""
    untranslated_reachable: int
    writable: int
    """The most bytes that could be written at once."""
    phases: list[Phase]
    translations: Translations
    never_unmapped: list[Listed]
    moments: list[Moment]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Analysis:
    """The report, and what pictures are drawn from."""

    log: AuditLog
    history: History
    report: Report
    reachable: Curve
    identity: Curve
    translated: Curve
    mappings: Curve


def analyse(log: AuditLog, history: History) -> Analysis:
    """Look at everything."""
    pieces = history.pieces
    reachable = reach.memory(pieces)
    identity = reach.memory(pieces[pieces["kind"] == Class.IDENTITY])
    translations = pieces[pieces["kind"] != Class.IDENTITY]
    translations = translations[translations["kind"] != Class.OPAQUE]
    translated = reach.memory(translations)
    mappings = reach.mappings(pieces)
    phases = _phases(log, pieces, reachable, mappings)
    named = [(time, text) for time, text in log.marks()]
    if mappings.highest:
        named.append((int(mappings.times[int(mappings.values.argmax())]), "(most mappings)"))
    untranslated = [phase for phase in phases if "identity" in phase.name]
    client = int(pieces["client"].max(initial=0))
    report = Report(
        state=log.state,
        complete=log.complete,
        seconds=log.seconds(log.end),
        events=len(log.records),
        clients=int((log.records["kind"] == Kind.CONNECTED).sum()),
        ram=history.ram(client),
        untranslated_seconds=sum(phase.end - phase.start for phase in untranslated),
        untranslated_reachable=identity.highest,
        writable=reach.memory(pieces[pieces["access"] & 2 != 0]).highest,
        phases=phases,
        translations=_translations(translations, translated),
        never_unmapped=_lasting(log, translations),
        moments=[
            Moment(text, log.seconds(time), mappings.at(time), reachable.at(time))
            for time, text in sorted(named)
        ],
    )
    return Analysis(log, history, report, reachable, identity, translated, mappings)


def _phases(log: AuditLog, pieces: Pieces, reachable: Curve, mappings: Curve) -> list[Phase]:
    kinds = {
        "identity": pieces["kind"] == Class.IDENTITY,
        "translated": np.isin(pieces["kind"], (Class.TRANSLATED, Class.UNPLACED)),
    }
    presence = {name: _presence(reach.mappings(pieces[which])) for name, which in kinds.items()}
    changes = [time for curve in presence.values() for time in curve.times.tolist()]
    found: list[tuple[str, int]] = []
    for start in sorted({log.start, *changes}):
        present = [name for name, curve in presence.items() if curve.at(start)]
        name = " and ".join(present) or "nothing mapped"
        if not found or found[-1][0] != name:
            found.append((name, start))
    ends = [start for _, start in found[1:]] + [log.end]
    return [
        Phase(
            name,
            log.seconds(start),
            log.seconds(end),
            reachable.highest_between(start, end),
            mappings.highest_between(start, end),
        )
        for (name, start), end in zip(found, ends, strict=True)
        if end > start
    ]


def _presence(curve: Curve) -> Curve:
    """1 where the curve is not 0, short gaps closed."""
    present = (curve.values > 0).astype(np.int64)
    changed = np.flatnonzero(np.diff(present, prepend=0))
    times, values = curve.times[changed], present[changed]
    gap = np.zeros(len(times), bool)  # starts and ends of gaps, both left out
    short = np.diff(times) < SHORTEST_GAP
    falls = np.flatnonzero(short & (values[:-1] == 0))
    gap[falls] = gap[falls + 1] = True
    return Curve(times[~gap], values[~gap])


def _translations(pieces: Pieces, translated: Curve) -> Translations:
    lives = (pieces["died"] - pieces["born"]) / 1e9
    names, counts = np.unique(pieces["access"], return_counts=True)
    return Translations(
        mappings=len(pieces),
        pages=_distinct_pages(pieces),
        most_mappings=reach.mappings(pieces).highest,
        most_reachable=translated.highest,
        lifetimes={
            name: float(np.quantile(lives, q, method="inverted_cdf")) if len(lives) else 0.0
            for name, q in _QUANTILES.items()
        },
        accesses={
            _ACCESSES.get(name, "none"): count
            for name, count in zip(names.tolist(), counts.tolist(), strict=True)
        },
    )


def _distinct_pages(pieces: Pieces) -> int:
    """Pages of memory that were ever reached, each counted once."""
    starts = reach.places(pieces) // np.uint64(PAGE)
    ends = (reach.places(pieces) + (pieces["last"] - pieces["first"])) // np.uint64(PAGE)
    order = np.argsort(starts)
    count, covered = 0, -1
    for start, end in zip(starts[order].tolist(), ends[order].tolist(), strict=True):
        count += max(end - max(start - 1, covered), 0)
        covered = max(covered, end)
    return count


def moment(log: AuditLog, name: str) -> int | None:
    """The time of a mark, or of a number of seconds since the start; None if it is neither."""
    for time, text in log.marks():
        if text == name:
            return time
    try:
        return log.start + int(float(name) * 1e9)
    except (ValueError, OverflowError):
        return None


def _lasting(log: AuditLog, pieces: Pieces) -> list[Listed]:
    left = pieces[np.isin(pieces["fate"], (Fate.DISCONNECTED, Fate.MAPPED))]
    return listed(log, left[np.argsort(left["born"], kind="stable")])


def listed(log: AuditLog, pieces: Pieces) -> list[Listed]:
    """Pieces, for a person."""
    return [
        Listed(
            logical=int(piece["first"]),
            physical=int(piece["physical"]) if piece["kind"] in PLACED else None,
            size=int(piece["last"]) - int(piece["first"]) + 1,
            access=_ACCESSES.get(int(piece["access"]), "none"),
            since=log.seconds(piece["born"]),
            fate=Fate(piece["fate"]).name.lower(),
        )
        for piece in pieces
    ]
