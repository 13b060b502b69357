"""The adapter's commands: mistakes get a sentence, and cost nobody anything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyvfio_user import Client, read_trace
from pyvfio_user.device import CONFIG_REGION
from pyvfio_user.trace import Kind
from pyvfio_user.wire import REGION_ACCESS, Command
from tests.protocol.rig import Raw
from vdxgk.cli import main
from vdxgk.cli_types import Size
from vdxgk.control import ControlError, ask


@contextmanager
def served(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`serve` in a process of its own, until told to stop."""
    ready, theirs = os.pipe()
    command = [sys.executable, "-m", "vdxgk", "serve", "--socket", str(path)]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(theirs), *options],
        pass_fds=[theirs],
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    try:
        assert os.read(ready, 1), process.communicate()
        yield process
    finally:
        os.close(ready)
        process.terminate()
        process.wait(20)
        assert process.stderr
        process.stderr.close()


def serve(*arguments: str) -> str:
    """What `serve` complains about."""
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output
    return result.output


def test_a_second_server_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with served(path):
        assert "another server is listening" in serve("--socket", str(path))
        assert ask(f"{path}.control", "query-status")["connected"] is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path / "s") as process:
        process.send_signal(number)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_killed_server_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    with served(tmp_path / "s") as process:
        process.kill()
    assert (tmp_path / "s").is_socket()
    with served(tmp_path / "s"):
        assert ask(str(tmp_path / "s.control"), "query-status")["objects"] == []


def test_several_adapters_in_one_process(tmp_path: Path) -> None:
    second, door = tmp_path / "t", tmp_path / "door"
    options = ["--socket", str(second), "--control", str(tmp_path / "s.control")]
    with served(tmp_path / "s", *options, "--control", str(door)) as process:
        for path in (tmp_path / "s.control", door):
            assert ask(str(path), "query-status")["connections"] == 0
        with Client(str(second)) as client:
            client.negotiate()
            assert ask(str(door), "query-status")["connected"]
            assert not ask(str(tmp_path / "s.control"), "query-status")["connected"]
            process.terminate()
            assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def test_one_socket_that_cannot_be_had_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("gold")
    assert "is no socket" in serve("--socket", str(tmp_path / "s"), "--socket", str(tmp_path / "t"))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("which", ["--socket", "--control", "--vnc"])
def test_no_socket_is_made_through_a_symbolic_link(tmp_path: Path, which: str) -> None:
    """Neither where a link leads to nothing, nor where it leads to a stale socket."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale"))
    for target in ("nothing", "stale"):
        link = tmp_path / f"to-{target}"
        link.symlink_to(tmp_path / target)
        options = {"--socket": str(tmp_path / "s"), which: str(link)}
        words = [word for pair in options.items() for word in pair]
        assert f"{link} exists and is no socket" in serve(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stale", "to-nothing", "to-stale"]


@pytest.mark.parametrize("which", ["--socket", "--control", "--vnc"])
def test_files_of_others_are_left_alone(tmp_path: Path, which: str) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    options = {"--socket": str(tmp_path / "s"), which: str(treasure)}
    words = [word for pair in options.items() for word in pair]
    assert f"{treasure} exists and is no socket" in serve(*words)
    assert treasure.read_text() == "gold"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing option '--socket'"),
        (["--socket", "/nonexistent/s"], "cannot listen at /nonexistent/s"),
        (["--socket", "s" * 200], "too long"),
        (["--socket", "s", "--dma-bits", "16"], "28<=x<=64"),
        (["--socket", "s", "--vram", "3M"], "power of two from 4M to 256M"),
        (["--socket", "s", "--vram", "lots"], "is not a size"),
        (["--socket", "s", "--dma-policy", "lax"], "'tolerant', 'strict'"),
        (["--socket", "s", "--trace-limit", "much"], "is not a size"),
        (["--socket", "s", "--trace", "no/such/folder"], "cannot write the trace no/such/folder"),
        (["--socket", "s", "--socket", "t", "--control", "c"], "2 --socket but 1 --control"),
    ],
)
def test_bad_options(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert sentence in serve(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_status_of_nobody(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "No such file" in result.output


def test_status(tmp_path: Path) -> None:
    with served(tmp_path / "s", "--dma-bits", "40"):
        control = str(tmp_path / "s.control")
        text = CliRunner().invoke(main, ["status", control])
        assert "not started, 40 address bits" in text.output
        data = CliRunner().invoke(main, ["status", control, "--json"])
        assert json.loads(data.output)["dma_bits"] == 40


def test_a_trace_says_what_was_said(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with served(tmp_path / "s", "--trace", str(trace)), Client(str(tmp_path / "s")) as client:
        client.negotiate()
        client.region_read(CONFIG_REGION, 0, 4)
    said = [(record.kind, record.command) for record in read_trace(trace)]
    for command in (Command.VERSION, Command.REGION_READ):
        assert said.index((Kind.RECEIVED, command)) < said.index((Kind.SENT, command))
    assert said[-1][0] is Kind.DISCONNECTED


def test_the_control_door_answers_nonsense(tmp_path: Path) -> None:
    with served(tmp_path / "s"):
        control = str(tmp_path / "s.control")
        for line in (
            b"\n",
            b"[]\n",
            b"{}\n",
            b'{"execute": 7}\n',
            b"\xff\xfe\n",
            b"[" * 9000 + b"\n",
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(control)
                with connection.makefile("rwb") as stream:
                    assert "QMP" in json.loads(stream.readline())
                    stream.write(line + b"\n")
                    stream.flush()
                    assert "error" in json.loads(stream.readline())
        with pytest.raises(ControlError, match="--misbehave"):
            ask(control, "misbehave", kind="stray-write")
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(control)
            with connection.makefile("rwb") as stream:
                stream.readline()
                stream.write(b"x" * (1 << 17))
                stream.flush()
                assert "at most" in json.loads(stream.readline())["error"]["desc"]
        assert ask(control, "query-status")["connected"] is False


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64K", 65536), ("16m", 16 << 20), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert Size().convert(text, None, None) == size


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A client that takes no answers holds up the first one."""
    with served(tmp_path / "s") as process:
        stubborn = Raw(str(tmp_path / "s"))
        stubborn.negotiate()
        stubborn.socket.settimeout(0.3)
        with suppress(TimeoutError):
            while True:
                stubborn.message(Command.REGION_READ, REGION_ACCESS.pack(0, 0, 65536))
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert any("A second signal ends at once" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        stubborn.close()
