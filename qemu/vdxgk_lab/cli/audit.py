"""`vdxgk audit`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click
from rich.console import Console

from vdxgk.cli import dma_bits_option
from vdxgk.cli_types import Size
from vdxgk_lab import artifacts, trees
from vdxgk_lab.audit import boot, history, log, page, pictures, report, text
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import IOMMUS, Accelerator, Iommu, MachineConfig
from vdxgk_lab.run_directory import RunDirectory

_KEPT = "guest.audit"
_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@click.option("--at", "moments", multiple=True, help="List all mappings at a mark, or at a second.")
@click.option("--png", type=_PATH, help="Also draw it all over time, into this file.")
@click.option("--html", "page_path", type=_PATH, help="Also write report and picture as one page.")
@click.option("--from", "start", type=click.FloatRange(0), default=0, help="Second to draw from.")
@click.option("--to", "end", type=click.FloatRange(0), help="Second to draw to. [default: the end]")
@click.option("--boot", "booting", is_flag=True, help=f"Boot a guest, record it in ./{_KEPT}.")
@click.option("--iommu", type=click.Choice(IOMMUS), default="intel", show_default=True)
@click.option(
    "--strict/--lazy", default=True, show_default=True, help="How the guest's kernel invalidates."
)
@click.option("--kernel-arg", "kernel_args", multiple=True, help="For the guest's command line.")
@click.option("--memory", type=Size(), default="1G", show_default=True, help="Guest memory.")
@click.option("--stub", is_flag=True, help="Load the driver stub; without it no driver of ours.")
@click.option("--do", "commands", multiple=True, help="A shell command for the guest.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=1, show_default=True, help="To wait in the end."
)
@dma_bits_option
@options.accelerator
@options.kernel
def audit(
    *,
    path: Path | None,
    as_json: bool,
    moments: tuple[str, ...],
    png: Path | None,
    page_path: Path | None,
    start: float,
    end: float | None,
    booting: bool,
    iommu: Iommu,
    strict: bool,
    kernel_args: tuple[str, ...],
    memory: int,
    stub: bool,
    commands: tuple[str, ...],
    seconds: float,
    dma_bits: int,
    accelerator: Accelerator,
    kernel: trees.Kernel,
) -> None:
    """What guest memory could a device reach, and when?

    FILE is what `vdxgk serve --audit FILE` recorded: of any guest and any
    driver. With --boot a guest is booted first, and FILE is where its log
    goes.

    Exit status 0 only if the log is complete.
    """
    if booting:
        config = MachineConfig(
            memory=memory,
            iommu=iommu,
            accelerator=accelerator,
            kernel_args=(
                *(() if stub else ("vdxgk_load=no",)),
                *(() if strict else ("iommu.strict=0",)),
                *kernel_args,
            ),
        )
        made = artifacts.prepare(kernel)
        path = path or Path(_KEPT)
        with RunDirectory("audit") as run, Console(stderr=True).status("the guest runs"):
            recorded = boot.record(
                config,
                made,
                run.path,
                serve_options=("--dma-bits", str(dma_bits)),
                commands=commands,
                seconds=seconds,
            )
            shutil.copyfile(recorded, path)
    elif path is None:
        raise click.UsageError("give the FILE of a recorded run, or --boot.")
    if end is not None and end <= start:
        raise click.UsageError("--to is not behind --from.")
    found = log.read(path)
    analysis = report.analyse(found, history.replay(found))
    if png:
        pictures.draw(analysis, png, path.name, start, end)
    if page_path:
        page.write(analysis, page_path, path.name, start, end)
    if as_json:
        click.echo(json.dumps(analysis.report.as_json(), indent=2))
    else:
        width = None if sys.stdout.isatty() else 124
        console = Console(width=width, highlight=False)
        text.show(analysis.report, console)
        for name in moments:
            _list(analysis, name, console)
    sys.exit(0 if found.complete else 1)


def _list(analysis: report.Analysis, name: str, console: Console) -> None:
    time = report.moment(analysis.log, name)
    if time is None:
        marks = ", ".join(mark for _, mark in analysis.log.marks()) or "none"
        raise click.UsageError(f"--at {name!r} is neither a mark nor a second; marks: {marks}")
    console.print()
    alive = report.listed(analysis.log, analysis.history.alive(time))
    console.print(text.listing(alive, f"at {name}"))
