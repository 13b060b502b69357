"""Choosing a mirror, and the private configuration."""

import subprocess
from pathlib import Path

import pytest

from vdxgk_lab import apt, host
from vdxgk_lab.apt import AptRoot, choose_kernel, choose_mirror
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Silent

DEBIAN = "Debian\tbookworm\thttp://mirror.test/debian/"
SECURITY = "Debian\tbookworm-security\thttp://mirror.test/debian-security/"
UNTOLD = "$(ORIGIN)\tbookworm\thttp://mirror.test/debian/"
OTHER = "Other\tstable\thttp://other.test/apt/"


@pytest.mark.parametrize(
    ("lines", "host_is_debian", "expected"),
    [
        ([DEBIAN], True, "http://mirror.test/debian"),
        ([SECURITY, OTHER, DEBIAN], False, "http://mirror.test/debian"),
        ([UNTOLD], True, "http://mirror.test/debian"),
        ([UNTOLD], False, ""),
        ([SECURITY, OTHER], True, ""),
        ([], True, ""),
    ],
)
def test_the_hosts_debian_archive_is_chosen(
    lines: list[str], host_is_debian: bool, expected: str
) -> None:
    assert choose_mirror("\n".join(lines), host_is_debian) == expected


def test_a_given_mirror_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDXGK_DEBIAN_MIRROR", "http://own.test/debian")
    assert apt.mirror() == "http://own.test/debian"


def test_without_keys_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDXGK_DEBIAN_KEYRING", str(tmp_path / "none.gpg"))
    with pytest.raises(SetupError, match=r"none\.gpg is missing"):
        AptRoot(tmp_path / "apt", ["stable"], Silent())


needs_apt = pytest.mark.skipif(host.APT_GET.path() is None, reason="this host has no apt")


@needs_apt
def test_apt_looks_nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VDXGK_DEBIAN_MIRROR", "http://own.test/debian")
    keys = tmp_path / "keys.gpg"
    keys.touch()
    monkeypatch.setenv("VDXGK_DEBIAN_KEYRING", str(keys))
    AptRoot(tmp_path / "apt", ["stable"], Silent())
    config = tmp_path / "apt/apt.conf"

    def ask(*command: str) -> str:
        return subprocess.run(
            command, env={"APT_CONFIG": str(config)}, capture_output=True, text=True, check=True
        ).stdout

    directories = ask(
        *("/usr/bin/apt-config", "shell", "A", "Dir::Etc/d", "B", "Dir::State/d"),
        *("C", "Dir::State::status/f", "D", "Dir::Cache::archives/d"),
    )
    for line in directories.splitlines():
        assert str(tmp_path / "apt") in line
    assert 'AllowInsecureRepositories "false"' in ask("/usr/bin/apt-config", "dump")
    targets = ask(
        *("/usr/bin/apt-get", "indextargets", "-o", "APT::Get::IndexTargets::ReleaseInfo=false"),
        *("--format", "$(SITE) $(RELEASE) $(COMPONENT)"),
    )
    assert set(targets.splitlines()) == {"http://own.test/debian stable main"}


def test_unsigned_archives_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    archive = tmp_path / "archive/dists/stable"
    packages = archive / "main/binary-amd64"
    packages.mkdir(parents=True)
    (packages / "Packages").write_text("")
    (archive / "Release").write_text("Suite: stable\nCodename: stable\n")
    keys = tmp_path / "keys.gpg"
    keys.touch()
    monkeypatch.setenv("VDXGK_DEBIAN_MIRROR", f"file:{tmp_path}/archive")
    monkeypatch.setenv("VDXGK_DEBIAN_KEYRING", str(keys))
    with pytest.raises(SetupError, match=r"not signed"):
        AptRoot(tmp_path / "apt", ["stable"], Silent()).update()


@pytest.mark.parametrize("changed", [False, True])
def test_a_list_that_was_changed_after_it_was_signed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: bool
) -> None:
    """Debian's own, as set-up has kept it; unchanged, the signature is not what is wrong."""
    kept = sorted((Cache().root / "apt/lists").glob("*_dists_trixie_InRelease"))
    if not kept or not apt.keyring().exists():
        pytest.skip("nothing of Debian's was downloaded yet: make setup")
    text = kept[0].read_bytes()
    assert text.count(b"\nOrigin: Debian\n") == 1
    if changed:
        text = text.replace(b"\nOrigin: Debian\n", b"\nOrigin: debian\n")
    directory = tmp_path / "archive/dists/trixie"
    directory.mkdir(parents=True)
    (directory / "InRelease").write_bytes(text)
    monkeypatch.setenv("VDXGK_DEBIAN_MIRROR", f"file:{tmp_path}/archive")
    with pytest.raises(SetupError) as refusal:
        AptRoot(tmp_path / "apt", ["trixie"], Silent()).update()
    assert ("not signed" in str(refusal.value)) == changed, refusal.value


PACKAGES = """
linux-image-6.1.0-9-amd64
linux-image-6.1.0-50-amd64
linux-image-6.1.0-50-cloud-amd64
linux-image-6.1.0-51-amd64-unsigned
linux-image-6.1.0-52-amd64-dbg
linux-image-6.12.94+deb13-amd64
linux-image-6.12.107+deb13-amd64
linux-image-6.12.107+deb13-rt-amd64
linux-image-6.19.6+deb13-amd64
linux-image-7.3.4+deb13-arm64
"""


@pytest.mark.parametrize(
    ("series", "expected"),
    [("6.1", "6.1.0-50-amd64"), ("6.12", "6.12.107+deb13-amd64"), ("7.3", "")],
)
def test_the_newest_kernel_of_a_series_is_chosen(series: str, expected: str) -> None:
    assert choose_kernel(PACKAGES, series) == expected


@needs_apt
def test_a_series_that_the_archive_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VDXGK_DEBIAN_MIRROR", f"file:{tmp_path}/archive")
    keys = tmp_path / "keys.gpg"
    keys.touch()
    monkeypatch.setenv("VDXGK_DEBIAN_KEYRING", str(keys))
    with pytest.raises(SetupError, match=r"has no Linux 5\.4"):
        AptRoot(tmp_path / "apt", ["stable"], Silent()).newest_kernel("5.4")
