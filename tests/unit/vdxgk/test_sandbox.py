"""`vdxgk serve --sandbox`: what is impossible then, from inside of the served process."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import landlockpy
import pytest
from click.testing import CliRunner

from tests.landlock import needs_landlock
from tests.unit.vdxgk.sandboxed_server import DONE
from vdxgk import cli
from vdxgk.control import ask

SERVER = "tests.unit.vdxgk.sandboxed_server"
ROOT = Path(__file__).parents[3]
SCOPES = 6
"""Landlock's first version that tells processes of the sandbox from others."""
REFUSED = {errno.errorcode[number] for number in (errno.EACCES, errno.EPERM, errno.EXDEV)}


@dataclass
class Served:
    process: subprocess.Popen[str]
    beside: Path
    elsewhere: Path

    @property
    def control(self) -> str:
        return str(self.beside / "s.control")

    def attempt(self) -> dict[str, str]:
        """What each attempt comes to; listeners for those that connect are there."""
        name = f"vdxgk-test-{os.getpid()}"
        with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_UNIX) as abstract:
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            abstract.bind(f"\0{name}")
            abstract.listen()
            outcome: dict[str, str] = ask(
                self.control,
                "attempt",
                beside=str(self.beside),
                elsewhere=str(self.elsewhere),
                port=tcp.getsockname()[1],
                abstract=name,
            )
            return outcome

    def statuses(self) -> list[str]:
        """Of every thread."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        found = []
        for task in tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends just now
                found.append((task / "status").read_text())
        return found


@contextmanager
def served(tmp_path: Path, *options: str) -> Iterator[Served]:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    for directory in (beside, elsewhere):
        directory.mkdir()
        (directory / "secret").write_text("gold")
        (directory / "kept").write_text("silver")
    ready, theirs = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", SERVER, "serve", "--socket", str(beside / "s")),
            *("--ready-fd", str(theirs), "--vnc", str(beside / "v"), *options),
        ],
        pass_fds=[theirs],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    os.close(theirs)
    try:
        assert os.read(ready, 1), process.communicate()
        yield Served(process, beside, elsewhere)
    finally:
        os.close(ready)
        process.terminate()
        process.wait(60)
        assert process.stderr
        process.stderr.close()


@needs_landlock
def test_nothing_is_left_but_what_it_holds(tmp_path: Path) -> None:
    files = ["--trace", str(tmp_path / "trace"), "--audit", str(tmp_path / "audit")]
    with served(tmp_path, "--sandbox", *files) as server:
        outcome = server.attempt()
        if landlockpy.abi_version() < SCOPES:
            for name in ("connect to an abstract socket", "send a signal"):
                assert outcome.pop(name) == DONE
        assert outcome == {name: outcome[name] for name in outcome if outcome[name] in REFUSED}
        assert len(outcome) >= 12
        assert (server.elsewhere / "secret").read_text() == "gold"
        assert (server.elsewhere / "kept").read_text() == "silver"
        for status in server.statuses():
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE), status
            for kind in ("Eff", "Prm", "Inh"):
                assert re.search(rf"^Cap{kind}:\t0+$", status, re.MULTILINE), status
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        # It goes on, and tidies up behind itself.
        assert ask(server.control, "screenshot", timeout=60)["png"]
        server.process.terminate()
        assert server.process.wait(60) == 0
        left = sorted(path.name for path in server.beside.iterdir())
        assert left == ["kept", "secret"]


def test_without_a_sandbox_all_of_it_is_possible(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        assert set(server.attempt().values()) == {DONE}
        assert "NoNewPrivs:\t0" in server.statuses()[0]


@pytest.mark.parametrize(
    ("version", "sentence"), [(0, "has no Landlock"), (3, "version 3, has no rules for TCP")]
)
def test_where_it_cannot_be_had_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, sentence: str
) -> None:
    monkeypatch.setattr("landlockpy.abi_version", lambda: version)
    path = tmp_path / "s"
    result = CliRunner().invoke(cli.main, ["serve", "--sandbox", "--socket", str(path)])
    assert result.exit_code == 1
    assert sentence in result.output
    assert "serve without --sandbox" in result.output
    assert list(tmp_path.iterdir()) == []


@needs_landlock
def test_all_that_is_read_late_elsewhere_is_read_before() -> None:
    """An import within a function would fail in the sandbox, where no file can be opened."""
    code = (
        "import sys, vdxgk.serve; from vdxgk import sandbox; before = set(sys.modules); "
        "sandbox.prepare(); import vdxgk.vnc.server; "
        "print(*before); print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (set(line.split()) for line in run.stdout.splitlines())
    late = {
        name
        for module in sorted(after)
        if module.startswith(("vdxgk.", "pyvfio_user.")) and module != "vdxgk.serve"
        for name in imports_within_functions(Path(str(find_spec(module).origin)))  # type: ignore[union-attr]
    }
    assert len(late - before) >= 4  # which is why there is something to do
    assert late <= after


def imports_within_functions(source: Path) -> Iterator[str]:
    """The modules that are read when a function is called."""
    for function in ast.walk(ast.parse(source.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield str(node.module)


def test_who_does_not_ask_does_not_pay() -> None:
    code = "import sys, vdxgk.cli, vdxgk.serve; print([m for m in sys.modules if 'landlock' in m])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
