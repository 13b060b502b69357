"""`vdxgk doctor`."""

import dataclasses
import json
import sys

import click
from rich.console import Console
from rich.table import Table

from vdxgk_lab.cache import Cache
from vdxgk_lab.doctor import Finding, examine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of JSON objects.")
def doctor(as_json: bool) -> None:
    """What this host lacks, and the line that fixes it. Exit status 1 if something is missing."""
    findings = examine(Cache())
    if as_json:
        records = [{**dataclasses.asdict(finding), "ok": finding.ok} for finding in findings]
        click.echo(json.dumps(records, indent=2))
    else:
        _print(findings)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "found", "needed"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]--[/]"
        table.add_row(mark, finding.what, finding.found, finding.needed)
    console.print(table)
    missing = [finding for finding in findings if not finding.ok]
    for finding in missing:
        console.print(f"{finding.what}: {finding.fix}", markup=False, soft_wrap=True)
    if not missing:
        console.print("Nothing is missing.")
