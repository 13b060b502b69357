"""Which QEMU will do, by what it says of itself."""

from pathlib import Path

import pytest

from vdxgk_lab import qemu_binary
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import Misconfigured
from vdxgk_lab.progress import Silent


def fake_qemu(directory: Path, version: str, devices: str) -> Path:
    program = directory / "qemu-system-x86_64"
    program.write_text(
        f"#!/bin/sh\ncase $1 in\n-version) echo 'QEMU emulator version {version}' ;;\n"
        f"*) echo '{devices}' ;;\nesac\n"
    )
    program.chmod(0o755)
    return program


GOOD = 'name "vfio-user-pci", bus PCI'


@pytest.mark.parametrize(
    ("version", "devices", "complaint"),
    [
        ("7.2.9 (Debian)", GOOD, r"7\.2\.9.* has no vfio-user-pci"),
        ("10.0.5", GOOD, r"10\.0\.5.* has no"),
        ("10.1.0", 'name "vfio-user-pci-not", bus PCI', "built without vfio-user-pci"),
    ],
)
def test_a_chosen_qemu_that_will_not_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, devices: str, complaint: str
) -> None:
    monkeypatch.setenv("QEMU", str(fake_qemu(tmp_path, version, devices)))
    with pytest.raises(Misconfigured, match=complaint) as caught:
        qemu_binary.find(Cache(tmp_path), Silent())
    assert "Set QEMU=" in caught.value.hint


@pytest.mark.parametrize("version", ["10.1.0", "11.1.3 (Debian 1:11.1.3)"])
def test_the_one_on_path_is_taken_if_it_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    program = fake_qemu(tmp_path, version, GOOD)
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = qemu_binary.find(Cache(tmp_path / "cache"), Silent())
    assert found.command == (str(program),)
    assert found.version == version.split(maxsplit=1)[0]


def test_an_old_one_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_qemu(tmp_path, "7.2.0", GOOD)
    monkeypatch.delenv("QEMU", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert qemu_binary.find_installed(Cache(tmp_path / "cache")) is None
