"""The report that a person reads."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vdxgk_lab.audit.report import Listed, Phase, Report
from vdxgk_lab.proof.evidence import grouped

SHOWN = 12
"""Rows of a table that may be long; --json has all of them."""

_FATES = {
    "unmapped": "",
    "replaced": "until it was mapped over",
    "disconnected": "until the client went",
    "mapped": "still mapped",
}


def size(count: int) -> str:
    """Bytes, for a person: three digits at least."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.4g} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """A time, for a person."""
    for factor, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def show(report: Report, console: Console) -> None:
    """All of it."""
    style = "" if report.complete else "[red]"
    console.print(
        f"{report.seconds:.1f} s, {report.events:,} events, {report.clients} "
        f"client{'s' * (report.clients != 1)}; {style}{report.state}"
    )
    if not report.clients:
        return
    if report.ram:
        console.print(f"guest RAM         {size(report.ram)}")
    else:
        console.print(
            "guest RAM         [yellow]layout not seen[/] (the client came while its IOMMU was on, "
            "or sends no descriptors): logical addresses only"
        )
    console.print(
        f"not translated    for {duration(report.untranslated_seconds)}: "
        f"up to {size(report.untranslated_reachable)} reachable at their own addresses"
    )
    console.print()
    console.print(_phases(report.phases))
    _translations(report, console)
    if report.never_unmapped:
        console.print()
        console.print(listing(report.never_unmapped[:SHOWN], "never unmapped"))
        more = len(report.never_unmapped) - SHOWN
        if more > 0:
            console.print(f"... and {more:,} more (--json)")
    if report.moments:
        console.print()
        console.print(_moments(report))


def _translations(report: Report, console: Console) -> None:
    found = report.translations
    console.print()
    if not found.mappings:
        console.print("translated        nothing was ever mapped at an address of its own")
        return
    lives = found.lifetimes
    console.print(
        f"translated        {found.mappings:,} mappings of {found.pages:,} different pages; "
        f"at most {found.most_mappings:,} at once, {size(found.most_reachable)}"
    )
    console.print(
        f"lifetimes         shortest {duration(lives['shortest'])}, median "
        f"{duration(lives['median'])}, 90 % {duration(lives['p90'])}, 99 % "
        f"{duration(lives['p99'])}, longest {duration(lives['longest'])}"
    )
    access = ", ".join(f"{name} {count:,}" for name, count in found.accesses.items())
    console.print(f"access            {access}")
    console.print(f"never unmapped    {len(report.never_unmapped):,} mappings")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table


def _phases(phases: list[Phase]) -> Table:
    table = _table("phase", ">from s", ">to s", ">reachable at most", ">mappings at most")
    for phase in phases[:SHOWN]:
        times = f"{phase.start:.3f}", f"{phase.end:.3f}"
        table.add_row(phase.name, *times, size(phase.reachable), f"{phase.mappings:,}")
    if len(phases) > SHOWN:
        table.add_row(f"... and {len(phases) - SHOWN:,} more (--json)")
    return table


def listing(items: list[Listed], heading: str) -> Table:
    """One line for each mapping."""
    table = _table(f"{heading}: logical", "guest-physical", ">size", "access", ">since s", "")
    for item in items:
        physical = "?" if item.physical is None else grouped(item.physical)
        place = grouped(item.logical), physical, size(item.size)
        table.add_row(*place, item.access, f"{item.since:.3f}", _FATES[item.fate])
    return table


def _moments(report: Report) -> Table:
    table = _table("moment", ">at s", ">mappings", ">reachable")
    for moment in report.moments:
        count = f"{moment.mappings:,}"
        table.add_row(moment.name, f"{moment.time:.3f}", count, size(moment.reachable))
    return table
