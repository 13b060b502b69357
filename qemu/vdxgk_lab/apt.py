"""A private apt root: downloads signature-verified packages, installs nothing.

It has its own state, cache and sources; the host's package database is
neither read nor written.  The mirror is the host's own, or
`$VDXGK_DEBIAN_MIRROR`; the signing keys are those of the host's
debian-archive-keyring, or `$VDXGK_DEBIAN_KEYRING`.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab import host, processes
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter

ARCHITECTURE = "amd64"
_NUMBER = re.compile(r"[0-9]+")

_HINT = "Look at the network and at the mirror (VDXGK_DEBIAN_MIRROR), then try again."

# How the host reaches its mirrors (proxies, certificates, retries) and how
# strict it is about dates is the host's business, so it is taken over.
_HOST_POLICY = re.compile(r"Acquire::(https?|Check-Date|Check-Valid-Until|Retries|ForceIPv[46])\b")


@dataclass(frozen=True)
class Package:
    """A package that apt chose; `file` is its name in the archives directory."""

    file: str
    size: int

    @property
    def label(self) -> str:
        """Name and version, for a manifest."""
        return self.file.removesuffix(".deb").replace("%3a", ":")


def keyring() -> Path:
    """The keys that sign Debian's archives."""
    return Path(os.environ.get("VDXGK_DEBIAN_KEYRING", host.KEYRING))


def mirror() -> str:
    """The URI of a Debian archive.

    Raises SetupError if the host does not say.
    """
    if uri := os.environ.get("VDXGK_DEBIAN_MIRROR"):
        return uri
    ask = ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(RELEASE)\t$(REPO_URI)"]
    # Without release information, apt lists also what was never downloaded,
    # as on a host where `apt-get update` has yet to run.
    for options in ([], ["-o", "APT::Get::IndexTargets::ReleaseInfo=false"]):
        if uri := choose_mirror(processes.output(ask + options), host.is_debian()):
            return uri
    raise SetupError(
        "the host's apt names no Debian archive.",
        "Set VDXGK_DEBIAN_MIRROR to the URI of one.",
    )


def choose_mirror(listing: str, host_is_debian: bool) -> str:
    """Pick from lines of origin, release and URI, separated by tabs; "" if none fits.

    apt leaves the word as it is where it does not know the origin; then the
    archive is Debian's if the host is.
    """
    for line in listing.splitlines():
        origin, release, uri = line.split("\t")
        ours = origin == "Debian" or (origin == "$(ORIGIN)" and host_is_debian)
        if ours and not release.endswith(("-security", "-backports")) and "/updates" not in release:
            return uri.rstrip("/")
    return ""


def choose_kernel(listing: str, series: str) -> str:
    """The newest of a series among package names, one on each line; "" if there is none.

    Flavours (cloud, rt), unsigned images and debug symbols are left out.
    """
    name = re.compile(
        rf"linux-image-({re.escape(series)}\.[0-9]+(-[0-9]+)?(\+deb[0-9]+)?-{ARCHITECTURE})"
    )
    found = [match[1] for line in listing.split() if (match := name.fullmatch(line))]
    return max(
        found, key=lambda release: [int(part) for part in _NUMBER.findall(release)], default=""
    )


class AptRoot:
    """A private apt root in a directory, for a fixed set of suites."""

    def __init__(self, directory: Path, suites: Sequence[str], reporter: Reporter) -> None:
        """Lay out the directory; nothing is downloaded yet.

        Raises SetupError if the keys or the mirror are missing.
        """
        if not keyring().exists():
            raise SetupError(
                f"{keyring()} is missing: nothing could be verified.",
                host.install_line([host.KEYRING_PACKAGE]),
            )
        self._reporter = reporter
        self.archives = directory / "archives"
        self._config = directory / "apt.conf"
        for name in ("lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        sources = [f"deb [signed-by={keyring()}] {mirror()} {suite} main" for suite in suites]
        (directory / "etc/sources.list").write_text("\n".join(sources) + "\n")
        self._status = directory / "status"
        self._status.write_text("")
        self._config.write_text(_configuration(directory))

    def update(self) -> None:
        """Fetch the package lists and verify their signatures."""
        with self._reporter.step("package lists"):
            self._apt("update", "-qq", "--error-on=any")

    def newest_kernel(self, series: str) -> str:
        """The release of the newest kernel of a series ("6.12"), as in its packages' names.

        Raises SetupError if the archive has none.
        """
        listing = processes.output(
            ["apt-cache", "pkgnames", f"linux-image-{series}."], self._environment()
        )
        if release := choose_kernel(listing, series):
            return release
        raise SetupError(
            f"{mirror()} has no Linux {series}.", "Choose another kernel, or another mirror."
        )

    def resolve(
        self, packages: Sequence[str], release: str, assume: Sequence[str] = ()
    ) -> list[Package]:
        """What `packages` need to run, themselves included.

        `release` is the suite to prefer; `assume` names packages to leave
        out, with all that only they need.
        """
        stanza = "Package: {}\nStatus: install ok installed\nArchitecture: all\nVersion: 999:0\n"
        self._status.write_text("\n".join(stanza.format(name) for name in assume))
        nowhere = self.archives.parent / "none"  # apt lists only what it would have to fetch
        (nowhere / "partial").mkdir(parents=True, exist_ok=True)
        listing = self._apt(
            *("install", "-qq", "--print-uris", "-o", f"Dir::Cache::archives={nowhere}"),
            *("-t", release, *packages),
        )
        fields = (line.split() for line in listing.splitlines() if line.startswith("'"))
        return [Package(file=name, size=int(size)) for _, name, size, *_ in fields]

    def download(self, packages: Sequence[str], release: str, title: str) -> None:
        """Have the packages of the last :meth:`resolve` in `archives`, verified."""
        with self._reporter.step(title) as step:
            reader, writer = os.pipe()
            command = self._command(
                *("install", "-qq", "--download-only", "-o", f"APT::Status-Fd={writer}"),
                *("-t", release, *packages),
            )
            with (
                os.fdopen(reader) as status,
                subprocess.Popen(
                    command,
                    env={**os.environ, **self._environment()},
                    pass_fds=[writer],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                ) as apt,
            ):
                os.close(writer)
                for line in status:  # dlstatus:<number>:<percent>:<text>
                    kind, _, rest = line.partition(":")
                    if kind == "dlstatus":
                        step.update(float(rest.split(":")[1]))
                errors = apt.stderr.read() if apt.stderr else ""
            if apt.returncode:
                raise SetupError(f"apt-get failed: {processes.complaint(errors)}", _HINT)

    def _apt(self, *arguments: str) -> str:
        return processes.output(self._command(*arguments), self._environment(), _HINT)

    def _command(self, *arguments: str) -> list[str]:
        return ["apt-get", "-y", "--no-install-recommends", *arguments]

    def _environment(self) -> dict[str, str]:
        return {"APT_CONFIG": str(self._config), "LC_ALL": "C"}


def _configuration(directory: Path) -> str:
    policy = [
        line
        for line in processes.output(["apt-config", "dump"]).splitlines()
        if _HOST_POLICY.match(line) and not line.endswith('"";')
    ]
    own = {
        "Dir::State": directory,
        "Dir::State::lists": directory / "lists",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory,
        "Dir::Cache::archives": directory / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc": directory / "etc",
        "Dir::Etc::netrc": "/etc/apt/auth.conf",
        "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d",
        "APT::Architecture": ARCHITECTURE,
        # apt's own download user could not write to the user's cache.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::AllowInsecureRepositories": "false",
        "APT::Get::AllowUnauthenticated": "false",
    }
    lines = policy + [f'{name} "{value}";' for name, value in own.items()]
    return "\n".join(
        [*lines, f'#clear APT::Architectures;\nAPT::Architectures:: "{ARCHITECTURE}";']
    )
