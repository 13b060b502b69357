"""What the lab uses of the host: programs, and how to get them."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab import processes
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter


@dataclass(frozen=True)
class Tool:
    """A program of the host."""

    name: str
    package: str  # of Debian
    purpose: str

    def path(self) -> str | None:
        """Where it is, or None."""
        # Debian keeps sbin off the PATH of ordinary users.
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        return shutil.which(self.name, path=path)


APT_GET = Tool("apt-get", "apt", "downloads and verifies packages")
DPKG_DEB = Tool("dpkg-deb", "dpkg", "unpacks packages")
TAR = Tool("tar", "tar", "unpacks packages")
GPGV = Tool("gpgv", "gpgv", "verifies signatures for apt")
SETPRIV = Tool("setpriv", "util-linux", "ends QEMU when its parent dies")
CHROOT = Tool("chroot", "coreutils", "builds the stub inside the sysroot")
UNSHARE = Tool("unshare", "util-linux", "builds the stub inside the sysroot")

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KEYRING_PACKAGE = "debian-archive-keyring"


def required_tools() -> list[Tool]:
    """The programs that set-up and machines need."""
    return [APT_GET, DPKG_DEB, TAR, GPGV, SETPRIV, CHROOT, UNSHARE]


def is_debian() -> bool:
    """Whether the host is Debian itself."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return False
    return "ID=debian" in lines


def install_line(packages: Iterable[str]) -> str:
    """The line that installs packages, for a user to copy."""
    return f"sudo apt-get install {' '.join(sorted(set(packages)))}"


def missing_packages() -> list[str]:
    """The Debian packages whose programs or files the host lacks."""
    packages = {tool.package for tool in required_tools() if tool.path() is None}
    if not KEYRING.exists():
        packages.add(KEYRING_PACKAGE)
    return sorted(packages)


def ensure_tools(reporter: Reporter) -> None:
    """Have what :func:`required_tools` names: on Debian as root, install it.

    Raises SetupError, with the line that fixes it, if something is missing.
    """
    missing = missing_packages()
    if not missing:
        return
    if APT_GET.path() and is_debian() and os.geteuid() == 0:
        with reporter.step(f"installing {', '.join(missing)}"):
            _install(missing)
        missing = missing_packages()
    if missing:
        raise SetupError(
            f"this host lacks: {', '.join(missing)}.",
            install_line(missing) if APT_GET.path() else "vdxgk doctor says what is needed.",
        )


def _install(packages: list[str]) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    line = install_line(packages)
    processes.output(["apt-get", "update", "-qq"], environment, line)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    processes.output(install, environment, line)
