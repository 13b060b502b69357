"""What the host has and lacks. Downloads nothing, changes nothing."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from vdxgk_lab import accelerator, apt, host, qemu_binary, trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import LabError

_SPACE_NEEDED = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    found: str
    needed: str
    fix: str = ""  # what to do; empty: all is well

    @property
    def ok(self) -> bool:
        """Whether nothing needs fixing."""
        return not self.fix


def examine(cache: Cache) -> list[Finding]:
    """Look at everything that set-up and machines depend on."""
    return [
        _machine(),
        *_tools(),
        _keys(),
        _mirror(),
        _space(cache),
        *_qemu(cache),
        *_guests(cache),
    ]


def _machine() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    fix = "" if found == "Linux x86_64" else "use a Linux host with an x86-64 processor"
    return Finding("host", found, "Linux x86_64", fix)


def _tools() -> Iterator[Finding]:
    for tool in host.required_tools():
        found = tool.path()
        if found:
            fix = ""
        elif host.APT_GET.path():
            fix = host.install_line([tool.package])
        else:
            fix = f"install {tool.name} by this distribution's means (on Debian: {tool.package})"
        yield Finding(tool.name, found or "missing", tool.purpose, fix)


def _keys() -> Finding:
    path = apt.keyring()
    found = str(path) if path.exists() else "missing"
    fix = "" if path.exists() else host.install_line([host.KEYRING_PACKAGE])
    return Finding("Debian's keys", found, "to verify packages", fix)


def _mirror() -> Finding:
    needed = "where packages come from"
    if not host.APT_GET.path():
        return Finding("Debian mirror", "unknown", needed, "needs apt-get: see above")
    try:
        return Finding("Debian mirror", apt.mirror(), needed)
    except LabError as error:
        return Finding("Debian mirror", "unknown", needed, error.hint)


def _space(cache: Cache) -> Finding:
    directory = cache.root
    while not directory.exists():
        directory = directory.parent
    needed = f"{_SPACE_NEEDED >> 30} GB in {cache.root}"
    free = shutil.disk_usage(directory).free
    if not os.access(directory, os.W_OK):
        return Finding("cache", f"{directory} is read-only", needed, "set VDXGK_CACHE elsewhere")
    recipe = trees.GUESTS[trees.DEFAULT_KERNEL]
    enough = free >= _SPACE_NEEDED or cache.path(recipe.name, recipe.key).is_dir()
    fix = "" if enough else "free some space, or set VDXGK_CACHE elsewhere"
    return Finding("cache", f"{free / 1e9:.1f} GB free", needed, fix)


def _qemu(cache: Cache) -> Iterator[Finding]:
    needed = f"{'.'.join(map(str, qemu_binary.MINIMUM))} or newer with {qemu_binary.DEVICE}"
    try:
        qemu = qemu_binary.find_installed(cache)
    except LabError as error:
        yield Finding("QEMU", error.message, needed, error.hint)
        return
    if qemu is None:
        yield Finding("QEMU", "not yet", f"{needed}; vdxgk setup downloads it")
        return
    yield Finding("QEMU", f"{qemu.version} ({qemu.origin})", needed)
    reason = accelerator.why_not_kvm(qemu.command)
    yield Finding("KVM", f"no: {reason}" if reason else "runs guests", "optional; else emulation")


def _guests(cache: Cache) -> Iterator[Finding]:
    for kernel, recipe in trees.GUESTS.items():
        path = cache.path(recipe.name, recipe.key)
        found = trees.Tree(path).kernel_release if path.is_dir() else "not yet"
        yield Finding(f"Linux {kernel}", found, f"vdxgk setup --kernel {kernel} downloads it")
