"""The report that a person reads."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vdxgk_lab.proof.evidence import Check, Evidence, ObjectEvidence, ScenarioEvidence, grouped


def size(count: int) -> str:
    """`count` bytes in the largest unit that divides it."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift and count % (1 << shift) == 0:
            return f"{count >> shift} {unit}"
    return f"{count} B"


def header(environment: dict[str, str], console: Console) -> None:
    """What ran."""
    console.print(
        f"[bold]QEMU {environment['qemu']}[/] ({environment['iommu']}) · "
        f"Linux {environment['kernel']} · {environment['accelerator'].upper()} · "
        f"guest {environment['memory']}, the GPU reaches {environment['reach']}"
    )


def scenario(item: ScenarioEvidence, console: Console) -> None:
    """One line, and what failed below it."""
    mark = "[green]ok[/]  " if item.ok else "[red]FAIL[/]"
    console.print(f" {mark} {item.name:22} {item.outcome}", highlight=False)
    failures(item.checklist.failures, console)


def failures(checks: list[Check], console: Console) -> None:
    """What did not hold, and what was seen."""
    for check in checks:
        console.print(f"      [red]{check.name}[/]: ", end="")
        console.print(check.detail, markup=False, highlight=False)


def objects(items: list[ObjectEvidence], console: Console) -> None:
    """The table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, justify in (
        ("object", "left"),
        ("size", "right"),
        ("guest-physical", "left"),
        ("logical", "left"),
        ("mappings", "right"),
        ("GPU reads", "left"),
        ("GPU writes", "left"),
        ("s", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for item in items:
        table.add_row(
            item.name,
            size(item.size),
            _where(item),
            f"{grouped(item.logical)}-{grouped(item.logical + item.size)}",
            str(item.mappings),
            _mark(item.bytes_read == item.size),
            _mark(item.bytes_written == item.size),
            f"{item.seconds:.1f}",
        )
    console.print(table)
    for item in items:
        failures(item.checklist.failures, console)


def verdict(evidence: Evidence, console: Console) -> None:
    """The last line."""
    read, written = evidence.bytes_verified
    checks = [check for item in evidence.items() for check in item.checklist.checks]
    failed = sum(not check.ok for check in checks)
    if evidence.ok:
        console.print(
            f"[bold green]PASS[/]  {len(evidence.objects)} objects, {read >> 20} MiB read and "
            f"{written >> 20} MiB written by the GPU through logical addresses, every byte "
            f"verified; {len(checks)} checks ({evidence.seconds:.0f} s)",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(
            f"[bold red]FAIL[/]  {failed} of {len(checks)} checks ({evidence.seconds:.0f} s)",
            highlight=False,
        )


def _where(item: ObjectEvidence) -> str:
    if item.run_count == 1:
        return f"{grouped(item.runs[0][0])}, 1 run"
    return f"{item.run_count} runs"


def _mark(good: bool) -> str:
    return "[green]ok[/]" if good else "[red]FAIL[/]"
