"""Sysroots: Debian packages unpacked into directories of the cache.

A tree is never installed to: no maintainer script runs.  What a script would
have done and we need (links, module dependencies, programs), :func:`build`
does.  Programs of a tree run on the host through the tree's own dynamic
loader (:meth:`Tree.command`), or inside it by chroot.
"""

import contextlib
import os
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, get_args

from vdxgk_lab import processes
from vdxgk_lab.apt import AptRoot, Package
from vdxgk_lab.cache import Cache, key_of
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter

_RECIPE_VERSION = "3"  # change it when the code below makes different trees
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_MANIFEST = "vdxgk-manifest"
_UNPACKED_MARGIN = 6  # a tree takes about so many times its packages

_UNUSED = (
    *("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info"),
    *("./usr/share/lintian", "./usr/share/bug", "./usr/share/bash-completion"),
    *("./usr/share/perl5", "./var", "./usr/lib/systemd/system", "./usr/share/icons"),
    # Debian 12 keeps modules in /lib, later ones in /usr/lib; tar's patterns fit both.
    *("lib/modules/*/kernel/sound", "lib/modules/*/kernel/drivers/media"),
    *("lib/modules/*/kernel/drivers/net/wireless", "lib/modules/*/kernel/net/wireless"),
    *("lib/modules/*/kernel/drivers/net/ethernet", "lib/modules/*/kernel/drivers/isdn"),
    *("lib/modules/*/kernel/drivers/infiniband", "lib/modules/*/kernel/drivers/scsi"),
    *(
        f"lib/modules/*/kernel/drivers/gpu/drm/{gpu}"
        for gpu in ("amd", "i915", "nouveau", "radeon", "xe")
    ),
)


Kernel = Literal["6.1", "6.12", "7.3"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
DEFAULT_KERNEL: Kernel = "6.12"


@dataclass(frozen=True)
class Recipe:
    """What a tree is made of."""

    name: str
    suites: tuple[str, ...]
    release: str  # the suite to prefer
    packages: tuple[str, ...]
    kernel: str = ""  # a series: its newest kernel comes along, with headers
    assume: tuple[str, ...] = ()  # left out, with what only they need

    @property
    def key(self) -> str:
        """Changes with anything that makes a different tree."""
        return key_of([_RECIPE_VERSION, *map(repr, astuple(self))])


_TRIXIE = ("trixie", "trixie-updates", "trixie-backports")
_BOOKWORM = ("bookworm", "bookworm-updates")

QEMU = Recipe(
    name="qemu",
    suites=_TRIXIE,
    release="trixie-backports",
    packages=("qemu-system-x86", "seabios"),
    assume=("adduser", "passwd", "debconf", "libpam-modules", "libpam-runtime"),
)

OVMF = Recipe(name="ovmf", suites=_TRIXIE, release="trixie", packages=("ovmf",))

# Its scripts, without the programs that would serve them.
NOVNC = Recipe(
    name="novnc",
    suites=_TRIXIE,
    release="trixie",
    packages=("novnc",),
    assume=("adduser", "net-tools", "nodejs", "python3", "websockify"),
)

# For the tests of the web page: no window, no drawing by a GPU.
CHROMIUM = Recipe(
    name="chromium",
    suites=_TRIXIE,
    release="trixie",
    packages=("chromium-headless-shell", "fonts-dejavu-core"),
    assume=("debconf", "libllvm19", "x11-utils", "xdg-utils"),
)

# For the tests of VNC: a viewer of others, an X server without a screen, and fingers.
TIGERVNC = Recipe(
    name="tigervnc",
    suites=_TRIXIE,
    release="trixie",
    packages=("tigervnc-viewer", "xvfb", "xdotool", "busybox-static", "fonts-dejavu-core"),
    assume=("debconf", "libglx-mesa0", "libegl-mesa0", "libllvm19"),
)


def _guest(series: str, suites: tuple[str, ...], release: str) -> Recipe:
    return Recipe(
        name=f"guest-{series}",
        suites=suites,
        release=release,
        kernel=series,
        packages=(
            *("gcc", "make", "libc6-dev", "zlib1g-dev"),
            *("busybox-static", "qemu-guest-agent", "kmod"),
        ),
        assume=("initramfs-tools", "linux-initramfs-tool", "linux-base", "init-system-helpers"),
    )


GUESTS: dict[Kernel, Recipe] = {
    "6.1": _guest("6.1", _BOOKWORM, "bookworm"),
    "6.12": _guest("6.12", _TRIXIE, "trixie"),
    "7.3": _guest("7.3", _TRIXIE, "trixie-backports"),
}


@dataclass(frozen=True)
class Tree:
    """An unpacked sysroot."""

    root: Path

    def command(self, program: str, argv0: str = "") -> list[str]:
        """The words that run a program of the tree on the host.

        `program` is its path in the tree; `argv0` what it believes to be
        called (programs of many names look at it).
        """
        libraries = self.root / _LIBRARIES
        return [
            str(libraries / "ld-linux-x86-64.so.2"),
            *(("--argv0", argv0) if argv0 else ()),
            *("--library-path", f"{libraries}:{libraries}/systemd"),
            str(self.root / program),
        ]

    @property
    def kernel_release(self) -> str:
        """The release of the tree's only kernel, as `uname -r` says it."""
        (modules,) = self.root.glob("usr/lib/modules/*/kernel")
        return modules.parent.name

    @property
    def modules(self) -> Path:
        """The directory of the kernel's modules, with modules.dep."""
        return self.root / "usr/lib/modules" / self.kernel_release

    @property
    def kernel_image(self) -> Path:
        """The kernel's bzImage."""
        # Where Debian puts it since 7.0, and where before.
        beside, boot = self.modules / "vmlinuz", self.root / "boot"
        return beside if beside.exists() else boot / f"vmlinuz-{self.kernel_release}"

    def versions(self) -> dict[str, str]:
        """Package names and versions."""
        lines = (self.root / _MANIFEST).read_text().split()
        return {name: version for name, version, _ in (line.split("_") for line in lines)}


def ensure(recipe: Recipe, cache: Cache, reporter: Reporter) -> Tree:
    """The tree of a recipe: from the cache, or downloaded and unpacked.

    Raises SetupError if a package cannot be had, or its signature does not
    verify.
    """
    return Tree(
        cache.entry(recipe.name, recipe.key, lambda target: build(recipe, target, cache, reporter))
    )


def build(recipe: Recipe, target: Path, cache: Cache, reporter: Reporter) -> None:
    """Make a tree in an empty directory."""
    with cache.lock("apt"):
        apt = AptRoot(cache.root / "apt", recipe.suites, reporter)
        apt.update()
        names = recipe.packages
        if recipe.kernel:
            kernel = apt.newest_kernel(recipe.kernel)
            names = (f"linux-image-{kernel}", f"linux-headers-{kernel}", *names)
        packages = apt.resolve(names, recipe.release, recipe.assume)
        size = sum(package.size for package in packages)
        _check_space(target, size)
        title = f"{recipe.name}: {len(packages)} Debian packages, {size / 1e6:.0f} MB"
        apt.download(names, recipe.release, title)
        _merge_usr(target)
        with reporter.step(f"{recipe.name}: unpacking") as step:
            for done, package in enumerate(packages):
                _unpack(apt.archives / package.file, target)
                step.update(100 * done / len(packages))
        for package in packages:
            (apt.archives / package.file).unlink()
    _finish(Tree(target), packages)


def _check_space(target: Path, size: int) -> None:
    status = os.statvfs(target)
    free = status.f_bavail * status.f_frsize
    if free < size * _UNPACKED_MARGIN:
        raise SetupError(
            f"{target.parent} has {free / 1e9:.1f} GB free; "
            f"about {size * _UNPACKED_MARGIN / 1e9:.1f} GB are needed.",
            "Free some space, or set VDXGK_CACHE to a directory on a larger file system.",
        )


def _merge_usr(target: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (target / "usr" / name).mkdir(parents=True)
        (target / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "tmp", "etc", "build"):
        (target / name).mkdir()


def _unpack(package: Path, target: Path) -> None:
    excludes = [f"--exclude={pattern}" for pattern in _UNUSED]
    tar = ["tar", "-x", "--no-same-owner", "--keep-directory-symlink", "-C", str(target), *excludes]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as reader:
        run = subprocess.run(tar, stdin=reader.stdout, capture_output=True, text=True, check=False)
    if run.returncode or reader.returncode:
        raise SetupError(f"{package.name} could not be unpacked: {run.stderr.strip()[-500:]}")


def _finish(tree: Tree, packages: Sequence[Package]) -> None:
    if (tree.root / "usr/lib/modules").is_dir():
        processes.output(
            [*tree.command("usr/bin/kmod", "depmod"), "-b", str(tree.root), tree.kernel_release]
        )
    if (tree.root / "usr/bin/gcc").exists():
        (tree.root / "usr/bin/cc").symlink_to("gcc")
    if (tree.root / "usr/bin/busybox").exists():
        _link_busybox(tree.root)
    # The build inside the tree needs no device but this one. Without the
    # right to make it, the builder mounts the host's over an empty file.
    null = tree.root / "dev/null"
    with contextlib.suppress(PermissionError):
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        null.chmod(0o666)
    null.touch()
    (tree.root / _MANIFEST).write_text("".join(f"{package.label}\n" for package in packages))


def _link_busybox(root: Path) -> None:
    """Let busybox be every standard program that the tree lacks."""
    applets = processes.output([str(root / "usr/bin/busybox"), "--list"]).split()
    for applet in applets:
        if not any(os.path.lexists(root / "usr" / where / applet) for where in ("bin", "sbin")):
            (root / "usr/bin" / applet).symlink_to("busybox")
