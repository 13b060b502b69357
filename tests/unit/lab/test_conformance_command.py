"""`vdxgk conformance`: whose vectors pass, whose fail, and what a program reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.vdxgk.raw_guest import serving
from vdxgk.adapter import AdapterOptions
from vdxgk.conformance import Answer, Call, load
from vdxgk.conformance.worlds.model import ModelImplementation
from vdxgk_lab.cli.conformance import conformance
from vdxgk_lab.errors import Misconfigured


class Unaligned(ModelImplementation):
    """Takes lists of any size: what some vectors must find."""

    features = frozenset()

    def allocate_adl(self, call: Call) -> Answer:
        size = (call.arguments.get("Size", 0) + 4095) & ~4095
        return super().allocate_adl(replace(call, arguments={**call.arguments, "Size": size}))


def run(*words: str) -> Result:
    return CliRunner().invoke(conformance, words)


def test_the_backend_passes() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"PASS  {len(load())} vectors, 0 failed")


def test_another_implementation_is_found_out() -> None:
    result = run("--implementation", f"{__name__}:Unaligned", "adl/*")
    assert result.exit_code == 1
    assert "FAIL adl/" in result.output
    assert "need what is not there" in result.output


def test_what_a_program_reads() -> None:
    result = run("--json", "--implementation", f"{__name__}:Unaligned", "adl/*", "free/*")
    entries = json.loads(result.output)
    assert {entry["outcome"] for entry in entries} == {"passed", "failed", "skipped"}
    for entry in entries:
        assert bool(entry["failures"]) == (entry["outcome"] == "failed")
        assert entry["outcome"] != "skipped" or entry["requires"]


def test_through_a_channel(tmp_path: Path) -> None:
    with serving(tmp_path, AdapterOptions()) as (_, path):
        result = run("--socket", path, "pin/*")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-vector",),
        ("--guest", "--socket", "s"),
        (
            "--socket",
            "s",
            "no-such",
        ),
    ],
)
def test_mistakes_of_use(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize("name", ["no_such_module:X", "json:no_such_thing", "json"])
def test_an_implementation_that_is_not_there(name: str) -> None:
    result = run("--implementation", name)
    assert isinstance(result.exception, Misconfigured)


def test_nobody_serves_there(tmp_path: Path) -> None:
    result = run("--socket", str(tmp_path / "none"))
    assert isinstance(result.exception, Misconfigured)
    assert "vdxgk serve" in str(result.exception.hint)
