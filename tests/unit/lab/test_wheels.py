"""What is installed works without the checkout: everything that it needs travels in the wheels."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STUB = ROOT / "kernel_stub"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the contents of both wheels."""
    site = tmp_path_factory.mktemp("site")
    wheels = tmp_path_factory.mktemp("wheels")
    for distribution in (ROOT, ROOT / "device/pyvfio-user"):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=distribution, check=True, capture_output=True)
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return site


def test_the_stubs_sources_are_those_of_the_checkout(installed: Path) -> None:
    sources = [path for path in STUB.rglob("*") if path.suffix in (".c", ".h")]
    sources = [path for path in sources if not path.name.endswith(".mod.c")]
    sources += [STUB / "Kbuild", *STUB.rglob("Makefile")]
    assert len(sources) > 40
    for path in sources:
        copy = installed / "vdxgk_lab/kernel_stub" / path.relative_to(STUB)
        assert copy.read_bytes() == path.read_bytes()


def test_every_file_of_the_packages_is_there(installed: Path) -> None:
    for home in ("device/pyvfio-user/pyvfio_user", "device/vdxgk", "qemu/vdxgk_lab"):
        package = ROOT / home
        assert (installed / package.name / "py.typed").exists()
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (installed / package.name / path.relative_to(package)).exists(), path


def test_the_stub_is_taken_from_the_wheel(installed: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from vdxgk_lab import initramfs, stub_build\n"
        "assert initramfs._init_script().startswith(b'#!')\n"
        "print(stub_build.sources())\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str(installed / "vdxgk_lab/kernel_stub")
