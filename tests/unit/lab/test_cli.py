"""The command: errors are sentences, and nothing is imported in vain."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vdxgk_lab import cli
from vdxgk_lab.errors import SetupError


@click.command()
def fails() -> None:
    error = SetupError("The mirror is closed.", "Open it.")
    error.add_note("Logs: /somewhere")
    raise error


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "fails", (f"{__name__}:fails", "Fails."))


@pytest.mark.usefixtures("failing")
def test_errors_are_lines_on_standard_error() -> None:
    result = CliRunner().invoke(cli.main, ["fails"])
    assert result.exit_code == 1
    assert result.stderr == "vdxgk: The mirror is closed.\nOpen it.\nLogs: /somewhere\n"
    assert result.stdout == ""


def test_the_help_imports_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "ghost", ("no_such_module:nothing", "Haunts."))
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    for name, (_, text) in cli.COMMANDS.items():
        assert name in result.output
        assert text in result.output


def test_unknown_commands() -> None:
    result = CliRunner().invoke(cli.main, ["dance"])
    assert result.exit_code == 2
    assert "dance" in result.stderr


def test_serving_imports_nothing_of_the_laboratory() -> None:
    program = (
        "import sys; from vdxgk_lab.cli import main; "
        "main(['serve', '--help'], standalone_mode=False); "
        "print([name for name in sys.modules if name.startswith(('vdxgk_lab.', 'qemu.'))])"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "['vdxgk_lab.errors', 'vdxgk_lab.cli']"


def test_a_server_that_nobody_looks_at_imports_nothing_for_pictures() -> None:
    """They are half of its start and of its memory."""
    program = "import sys, vdxgk.serve; print({'numpy', 'PIL'} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_a_qemu_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDXGK_CACHE", str(tmp_path))
    monkeypatch.setenv("QEMU", "/bin/true")
    result = CliRunner().invoke(cli.main, ["doctor"])
    assert result.exit_code == 1
    assert "QEMU=/bin/true is not a QEMU" in result.stdout
    assert "Set QEMU= to a qemu-system-x86_64" in result.stdout
