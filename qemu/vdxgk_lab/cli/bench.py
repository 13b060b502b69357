"""`vdxgk bench`."""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from vdxgk_lab import guest_program, trees
from vdxgk_lab.bench import curves as all_curves
from vdxgk_lab.bench import engine, frame, plots, serve, wire
from vdxgk_lab.bench import guest as guest_bench
from vdxgk_lab.bench.figures import Figure
from vdxgk_lab.bench.guest import GuestCost
from vdxgk_lab.cache import Cache
from vdxgk_lab.progress import Reporter
from vdxgk_lab.run_directory import RunDirectory


@click.command()
@click.option("--quick", is_flag=True, help="Few repetitions: only to see that it runs.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as one JSON object.")
@click.option("--guest/--no-guest", default=True, help="Also what a guest pays: boots one.")
@click.option(
    "--curves",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only how costs grow with the work: plots into this folder (needs the extra 'plots').",
)
def bench(*, quick: bool, as_json: bool, guest: bool, curves: Path | None) -> None:
    """Measure the device against the floor of this machine.

    Every figure is a ratio to a C echo, to memcpy, to zlib or to a trapped
    register access, measured in the same run: median and spread. Lower is
    better. A busy machine gives wide spreads, and then the medians mean little.
    """
    count, repetitions = (500, 1) if quick else (10_000, 7)
    if curves is not None:
        _draw(curves, repetitions, quick, as_json)
        return
    cache, reporter = Cache(), Reporter()
    tree = trees.ensure(trees.GUESTS[trees.DEFAULT_KERNEL], cache, reporter)
    source = importlib.resources.files("vdxgk_lab").joinpath("bench/floor.c")
    with importlib.resources.as_file(source) as path:
        floor = guest_program.ensure(path, tree, cache)
    console = Console(stderr=True)
    figures: list[Figure] = []
    cost: GuestCost | None = None
    with RunDirectory("bench") as directory, console.status("measuring") as status:
        for figure in _figures(floor, directory.path, count, repetitions):
            figures.append(figure)
            status.update(figure.name)
        if guest:
            status.update("what a guest pays")
            cost = guest_bench.measure(floor, directory.path, repetitions, 1.0 if quick else 10.0)
            figures += cost.figures
    if as_json:
        record: dict[str, Any] = {"figures": [f.as_json() for f in figures]}
        if cost:
            record["guest"] = cost.as_json()
        click.echo(json.dumps(record, indent=2))
        return
    out = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    out.print(_table(figures))
    if cost:
        out.print(
            f"with an idle guest: {cost.idle.resident_bytes >> 20} MiB resident, "
            f"{cost.idle.wake_ups} wake-ups in {cost.idle.seconds:g} s\n"
            f"a create that is waited for: {cost.accesses_per_create:g} register accesses; "
            f"a list over 64 MiB: {cost.list_mappings} mappings"
        )


def _figures(floor: Path, directory: Path, count: int, repetitions: int) -> Iterator[Figure]:
    yield from wire.run(floor, directory, count, repetitions)
    yield from engine.run(floor, repetitions)
    yield from frame.run(repetitions)
    yield serve.ready(directory, repetitions)


def _draw(directory: Path, repetitions: int, quick: bool, as_json: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for curve in all_curves.run(repetitions, quick):
        path = plots.draw(curve, directory)
        drawn.append(curve.as_json())
        click.echo(path, err=as_json)
    if as_json:
        click.echo(json.dumps(drawn))


def _table(figures: list[Figure]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "against"):
        table.add_column(heading)
    for heading in ("floor", "ours", "ratio", "spread", "budget"):
        table.add_column(heading, justify="right")
    for figure in figures:
        middle = sorted(range(len(figure.ratios)), key=figure.ratios.__getitem__)
        sample = middle[len(middle) // 2]
        style = {True: "green", False: "red", None: ""}[figure.within_budget]
        ratio = f"{figure.ratio:.2f}"
        table.add_row(
            figure.name,
            figure.against,
            _time(figure.floor[sample]),
            _time(figure.ours[sample]),
            f"[{style}]{ratio}[/]" if style else ratio,
            f"{min(figure.ratios):.2f}-{max(figure.ratios):.2f}",
            "" if figure.budget is None else f"{figure.budget:.2f}",
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
