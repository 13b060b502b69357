"""`vdxgk bench`."""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from vdxgk_lab import guest_program, trees
from vdxgk_lab.bench import engine, serve, wire
from vdxgk_lab.bench.figures import Figure
from vdxgk_lab.cache import Cache
from vdxgk_lab.progress import Reporter
from vdxgk_lab.run_directory import RunDirectory


@click.command()
@click.option("--quick", is_flag=True, help="Few repetitions: only to see that it runs.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as one JSON object.")
def bench(*, quick: bool, as_json: bool) -> None:
    """Measure the device against the floor of this machine.

    Every figure is a ratio to a C echo, to memcpy or to zlib, measured in
    turns in the same run: median and spread. Lower is better. A busy machine
    gives wide spreads, and then the medians mean little.
    """
    count, repetitions = (500, 1) if quick else (10_000, 7)
    cache, reporter = Cache(), Reporter()
    tree = trees.ensure(trees.GUESTS[trees.DEFAULT_KERNEL], cache, reporter)
    source = importlib.resources.files("vdxgk_lab").joinpath("bench/floor.c")
    with importlib.resources.as_file(source) as path:
        floor = guest_program.ensure(path, tree, cache)
    console = Console(stderr=True)
    figures: list[Figure] = []
    with RunDirectory("bench") as directory:
        cost = serve.measure(directory.path)
        with console.status("measuring") as status:
            for figure in _figures(floor, directory.path, count, repetitions):
                figures.append(figure)
                status.update(figure.name)
    if as_json:
        record = {"serve": cost.as_json(), "figures": [f.as_json() for f in figures]}
        click.echo(json.dumps(record, indent=2))
        return
    out = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    out.print(_table(figures))
    out.print(
        f"serve: ready in {cost.ready_seconds:.2f} s, {cost.resident_bytes >> 20} MiB resident, "
        f"{cost.idle_switches} wake-ups in a second of idling"
    )


def _figures(floor: Path, directory: Path, count: int, repetitions: int) -> Iterator[Figure]:
    yield from wire.run(floor, directory, count, repetitions)
    yield from engine.run(repetitions)


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
