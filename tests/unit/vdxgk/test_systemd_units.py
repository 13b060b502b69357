"""The units in examples/systemd: systemd understands them, and they say what is promised."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdxgk.cli import serve

UNITS = Path(__file__).parents[3] / "examples/systemd"
NAMES = ["vdxgk@.service", "user/vdxgk@.service"]
EXPOSURE = 10
"""In tenths, as systemd-analyze takes it: 1.0 of 10."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this host"
)


def analyze(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_systemd
@pytest.mark.parametrize("name", [*NAMES, *(name.replace("service", "socket") for name in NAMES)])
def test_systemd_has_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    # Only what it starts is not where it will be.  A socket needs the service beside it.
    for each in ("vdxgk@.service", "vdxgk@.socket"):
        text = (UNITS / name).with_name(each).read_text()
        text = re.sub(r"(?m)^(ExecStart=)\S+", rf"\1{sys.executable}", text)
        (tmp_path / each).write_text(text)
    unit = tmp_path / Path(name).name
    text = unit.read_text()
    scope = ["--user"] if name.startswith("user/") else []
    said = analyze(tmp_path, *scope, "--man=no", "verify", str(unit))
    assert (said.returncode, said.stderr) == (0, "")
    unit.write_text(re.sub(r"(?m)^\w+Mode=", "OldMode=", text))
    said = analyze(tmp_path, *scope, "--man=no", "verify", str(unit))
    assert "OldMode" in said.stderr


@needs_systemd
def test_the_system_service_is_exposed_to_little(tmp_path: Path) -> None:
    unit = str(UNITS / NAMES[0])
    said = analyze(tmp_path, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd-analyze judges running units only")
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("name", NAMES)
def test_what_it_starts_is_a_command_of_ours(name: str) -> None:
    text = (UNITS / name).read_text()
    line = re.search(r"(?m)^ExecStart=(.*)$", text)
    assert line
    program, command, *options = shlex.split(line[1])
    assert (Path(program).name, command) == ("vdxgk", "serve")
    values = serve.make_context("serve", options).params
    assert values["sandbox"]
    # The socket lies in the private directory that the unit makes.
    made = re.search(r"(?m)^RuntimeDirectory=(.*)$", text)
    assert made
    assert "RuntimeDirectoryMode=0700\n" in text
    (path,) = values["sockets"]
    assert Path(path).parent in (Path("/run") / made[1], Path("%t") / made[1])
    # systemd may listen there before.
    assert f"ListenStream={path}\n" in (UNITS / name).with_suffix(".socket").read_text()
