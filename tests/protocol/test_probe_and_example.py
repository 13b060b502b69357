"""The example in the README is a device; the probe says what it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pyvfio_user import Client
from pyvfio_user.__main__ import main

from .examples import PACKAGE, running
from .rig import Rig


def code(text: str) -> list[str]:
    """Return the lines of a script that are neither prose nor empty."""
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and "__main__" not in line and "SIGINT" not in line]


def test_the_readme_shows_the_example() -> None:
    readme = (PACKAGE / "README.md").read_text()
    shown = readme.split("```python\n")[1].split("```")[0]
    assert code(shown) == code((PACKAGE / "examples" / "counter.py").read_text())


def test_the_example_is_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "counter.sock")
    with running("counter", path):
        assert main(["probe", path]) == 0
        printed = capsys.readouterr().out
        with Client(path) as client:
            client.negotiate()
            assert [client.region_read(0, 0, 4)[0] for _ in range(3)] == [1, 2, 3]
            eventfd = os.eventfd(0, os.EFD_NONBLOCK)
            client.assign_eventfds(2, 0, [eventfd])
            client.region_write(0, 4, bytes(4))
            assert os.eventfd_read(eventfd) == 1
            os.close(eventfd)
    shown = (PACKAGE / "README.md").read_text()
    for line in printed.splitlines():
        assert f"    {line}\n" in shown


def test_the_probe_describes_everything(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", rig.path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1234:5678 class ff0000 rev 03",
        "  protocol: max_msg_fds 16, max_data_xfer_size 131072, write_multiple True",
        "  reset: yes",
        "  BAR 0: 64 KiB, 64-bit, prefetchable, mapped 0x1000+8 KiB 0x8000+4 KiB",
        "  BAR 2: 4 KiB, 32-bit",
        "  BAR 3: 64 KiB, 32-bit, mapped 0x0+64 KiB",
        "  BAR 4: 4 KiB, 32-bit",
        "  BAR 5: 256 KiB, 32-bit",
        "  configuration space: 256 bytes",
        "  INTX: 1 vector, maskable, automasked",
        "  MSIX: 8 vectors, maskable",
        "  capability at 0x40: vendor-specific (0x09)",
        "  capability at 0x48: MSI-X (0x11)",
    ]


def test_the_probe_says_why_it_cannot(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(tmp_path / "nothing")]) == 1
    assert "No such file" in capsys.readouterr().err
    with Client(rig.path) as client:
        client.negotiate()
        assert main(["probe", rig.path]) == 1
        assert rig.path in capsys.readouterr().err
