"""`vdxgk run`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

import click
from rich.console import Console

from vdxgk.cli import dma_bits_option
from vdxgk.cli_types import Size
from vdxgk_lab import artifacts, trees
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import IOMMUS, Accelerator, Iommu
from vdxgk_lab.proof import report
from vdxgk_lab.proof.run import Listener, RunOptions, prove
from vdxgk_lab.run_directory import RunDirectory


@click.command()
@click.option("--memory", type=Size(), default="6G", show_default=True, help="Guest memory.")
@dma_bits_option
@click.option(
    "--iommu",
    type=click.Choice([name for name in IOMMUS if name != "none"]),
    default="intel",
    show_default=True,
)
@options.accelerator
@options.kernel
@click.option("--json", "as_json", is_flag=True, help="The evidence as one JSON object.")
def run(
    *,
    memory: int,
    dma_bits: int,
    iommu: Iommu,
    accelerator: Accelerator,
    kernel: trees.Kernel,
    as_json: bool,
) -> None:
    """Boot a guest, remap, do DMA both ways, verify, report.

    Exit status 0 only if everything was verified. Otherwise, or with KEEP=1,
    the logs are kept below ./results.
    """
    made = artifacts.prepare(kernel)
    wanted = RunOptions(memory, dma_bits, iommu, accelerator)
    # A file or a pipe gets whole lines; a terminal decides for itself.
    console = Console(quiet=as_json, width=None if sys.stdout.isatty() else 124)
    with RunDirectory("run") as directory, ExitStack() as stack:
        status = stack.enter_context(console.status("starting"))
        evidence = prove(
            wanted,
            made,
            directory.path,
            Listener(
                environment=lambda facts: report.header(facts, console),
                scenario=lambda item: report.scenario(item, console),
                working=status.update,
                objects=lambda items: report.objects(items, console),
            ),
        )
        kept = None if evidence.ok else directory.keep()
    if as_json:
        click.echo(json.dumps(evidence.as_json(), indent=2))
    report.verdict(evidence, console)
    if kept:
        click.echo(f"Logs: {kept}", err=True)
    sys.exit(0 if evidence.ok else 1)
