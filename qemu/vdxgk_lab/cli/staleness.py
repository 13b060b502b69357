"""`vdxgk staleness`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from vdxgk_lab import artifacts, trees
from vdxgk_lab.artifacts import Artifacts
from vdxgk_lab.audit.text import duration
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import Accelerator, Iommu, MachineConfig
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.staleness import figure, measure
from vdxgk_lab.staleness.device import PATHS
from vdxgk_lab.staleness.measure import DOMAINS, Distribution


@click.command()
@click.option(
    "--iommu",
    "iommus",
    type=click.Choice(["intel", "amd", "virtio"]),
    multiple=True,
    default=["virtio", "intel"],
    show_default=True,
)
@click.option("--samples", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every sample, as one JSON object.")
@click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a figure here."
)
@options.accelerator
@options.kernel
def staleness(
    *,
    iommus: tuple[Iommu, ...],
    samples: int,
    as_json: bool,
    png: Path | None,
    accelerator: Accelerator,
    kernel: trees.Kernel,
) -> None:
    """For how long does a device reach a page after the guest has unmapped it?

    With strict and with lazy invalidation, through the kernel's DMA API and
    through a domain of the driver's own, by descriptors and by messages.
    """
    made = artifacts.prepare(kernel)
    found: list[Distribution] = []
    with RunDirectory("staleness") as run, Console(stderr=True).status("starting") as status:
        for iommu in iommus:
            config = MachineConfig(iommu=iommu, accelerator=accelerator, memory=512 << 20)
            for each in _all_ways(config, kernel, made, run.path, samples):
                found.append(each)
                status.update(f"{each.iommu}, {each.asked}, {each.domain}, {each.path}")
    if png is not None:
        figure.draw(found, png)
    if as_json:
        click.echo(json.dumps([each.as_json() for each in found], indent=2))
    else:
        width = None if sys.stdout.isatty() else 124
        Console(width=width, highlight=False).print(_table(found))


def _all_ways(
    config: MachineConfig, kernel: trees.Kernel, made: Artifacts, directory: Path, samples: int
) -> Iterator[Distribution]:
    for lazy in (False, True):
        with measure.open_laboratory(config, kernel, made, directory, lazy=lazy) as laboratory:
            for domain in DOMAINS:
                for path in PATHS.values():
                    yield laboratory.measure(domain, path, samples)


def _table(found: list[Distribution]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("IOMMU", "asked for", "group type", "domain", "path"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pages", "stale", "median", "p99", "max", "foreign reads"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        stale = [sample.stale for sample in each.samples if sample.stale_reads]
        figures = measure.summary(stale).values() if stale else ()
        table.add_row(
            *(each.iommu, each.asked, each.group_type, each.domain, each.path),
            f"{len(each.samples):,}",
            f"{each.stale_samples:,}",
            *(*map(duration, figures), *([] if stale else ["-"] * 3)),
            f"{sum(sample.foreign_reads > 0 for sample in each.samples):,}",
        )
    return table
