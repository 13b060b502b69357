"""`vdxgk conformance`."""

from __future__ import annotations

import fnmatch
import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from vdxgk.conformance import Implementation, Result, Vector, load, run, run_together
from vdxgk.conformance.implementation import BatchImplementation
from vdxgk_lab import artifacts, trees
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.errors import LabError, Misconfigured
from vdxgk_lab.guest_conformance import GuestImplementation
from vdxgk_lab.machine import Machine
from vdxgk_lab.proof import scenarios
from vdxgk_lab.run_directory import RunDirectory

_GUEST_MEMORY = 5 << 30


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--socket", help="Through the channel of the adapter served there, which is free.")
@click.option("--guest", is_flag=True, help="In a guest, through miniport, shim and IOMMU.")
@click.option(
    "--implementation",
    metavar="MODULE:FACTORY",
    help="Of another implementation: a call that answers a vdxgk.conformance.Implementation.",
)
@options.kernel
@click.option("--json", "as_json", is_flag=True, help="Every result, as one JSON object.")
def conformance(
    *,
    patterns: tuple[str, ...],
    socket: str | None,
    guest: bool,
    implementation: str | None,
    kernel: trees.Kernel,
    as_json: bool,
) -> None:
    """Run the conformance vectors; without options, against the backend's classes.

    PATTERN chooses vectors by their names, as `adl/*`. Exit status 0 only if
    none failed and one was run.
    """
    if sum(map(bool, (socket, guest, implementation))) > 1:
        raise click.UsageError("--socket, --guest and --implementation exclude each other.")
    vectors = [v for v in load() if not patterns or any(fnmatch.fnmatch(v.id, p) for p in patterns)]
    if not vectors:
        raise click.UsageError("no vector has such a name.")
    if guest:
        with _in_guest(kernel) as inside:
            chosen = _able(vectors, inside.features)
            results = run_together(chosen, inside)
    elif socket:
        results = _through(_channel(socket), vectors)
    else:
        factory = implementation or "vdxgk.conformance.worlds.model:ModelImplementation"
        results = _through(_made(factory), vectors)
    _report(vectors, results, as_json)
    sys.exit(0 if results and all(result.passed for result in results.values()) else 1)


def _able(vectors: list[Vector], features: frozenset[str]) -> list[Vector]:
    return [vector for vector in vectors if vector.requires <= features]


def _through(implementation: Implementation, vectors: list[Vector]) -> dict[str, Result]:
    with ExitStack() as stack:
        close = getattr(implementation, "close", None)
        if close:
            stack.callback(close)
        able = _able(vectors, implementation.features)
        return {vector.id: run(vector, implementation) for vector in able}


def _made(entry_point: str) -> Implementation:
    module, _, factory = entry_point.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # where the user is, as with python -m
    try:
        made: Implementation = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, ValueError) as error:
        raise Misconfigured(
            f"{entry_point} cannot be had: {error}.", "Name it as module:factory."
        ) from error
    return made


def _channel(socket: str) -> Implementation:
    # Here: it needs numbers of the protocol library that no other command does.
    from vdxgk.conformance.worlds.channel import RawImplementation  # noqa: PLC0415

    try:
        return RawImplementation(socket)
    except OSError as error:
        raise Misconfigured(
            f"{socket}: {error.strerror}.", "Start vdxgk serve --socket there first."
        ) from error


@contextmanager
def _in_guest(kernel: trees.Kernel) -> Iterator[BatchImplementation]:
    made = artifacts.prepare(kernel)
    with RunDirectory("conformance") as directory, DeviceProcess(directory.path) as device:
        config = MachineConfig(
            memory=_GUEST_MEMORY, devices=(device.socket,), kernel_args=("vdxgk_load=no",)
        )
        with Machine(config, made, directory.path) as machine:
            if not scenarios.load_stub(machine.guest, "logical"):
                raise LabError(f"the stub did not start. Logs: {directory.keep()}")
            yield GuestImplementation(machine.guest)


def _report(vectors: list[Vector], results: dict[str, Result], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_entry(vector, results.get(vector.id)) for vector in vectors]))
        return
    for vector in vectors:
        result = results.get(vector.id)
        for failure in result.failures if result else ():
            click.echo(f"FAIL {vector.id} ({vector.basis}): {failure}")
    failed = sum(not result.passed for result in results.values())
    unseen = sum(bool(result.unobserved) for result in results.values())
    click.echo(
        f"{'FAIL' if failed or not results else 'PASS'}  {len(results)} vectors, {failed} failed, "
        f"{unseen} with something that could not be observed; "
        f"{len(vectors) - len(results)} need what is not there"
    )


def _entry(vector: Vector, result: Result | None) -> dict[str, object]:
    outcome = "skipped" if result is None else "passed" if result.passed else "failed"
    return {
        **{"id": vector.id, "title": vector.title, "basis": vector.basis, "outcome": outcome},
        "requires": sorted(vector.requires),
        "failures": result.failures if result else [],
        "unobserved": result.unobserved if result else [],
    }
