"""Kernel modules and the order to load them in, from modules.dep (see depmod(8))."""

import lzma
from collections.abc import Iterable
from pathlib import Path

from vdxgk_lab.errors import SetupError


def load_order(modules: Path, names: Iterable[str]) -> list[Path]:
    """The files to load for `names`, dependencies first, each once.

    `modules` is a kernel's module directory. What is built into the kernel
    needs no file. Raises SetupError for a module that the kernel lacks.
    """
    files = _by_name(modules)
    builtin = _builtin(modules)
    order: dict[str, None] = {}
    for name in names:
        if name in files:
            path, dependencies = files[name]
            # modules.dep lists the most basic dependency last.
            order.update(dict.fromkeys([*reversed(dependencies), path]))
        elif name not in builtin:
            raise SetupError(f"kernel {modules.name} has no module {name}.")
    return [modules / path for path in order]


def exists(modules: Path, name: str) -> bool:
    """Whether the kernel has a module, built in or not."""
    return name in _by_name(modules) or name in _builtin(modules)


def _builtin(modules: Path) -> set[str]:
    return {_name(line) for line in (modules / "modules.builtin").read_text().split()}


def _by_name(modules: Path) -> dict[str, tuple[str, list[str]]]:
    found = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, dependencies = line.partition(":")
        found[_name(path)] = (path, dependencies.split())
    return found


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def read(path: Path) -> bytes:
    """A module's ELF image; busybox's insmod reads no compressed ones."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
