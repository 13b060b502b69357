"""The guest's user space: busybox, the guest agent, modules, an init script.

The guest has no disk. Its init loads the modules, starts the guest agent on
the virtio-serial port named :data:`AGENT_PORT`, and stays.
"""

import importlib.resources
import io
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab import kernel_modules, processes
from vdxgk_lab.cache import Cache, key_of
from vdxgk_lab.cpio import CpioWriter
from vdxgk_lab.errors import SetupError
from vdxgk_lab.trees import Tree

_FORMAT = "2"  # change it when the code below makes different archives

AGENT_PORT = "org.qemu.guest_agent.0"
_MODULES = ("virtio_pci", "virtio_iommu", "virtio_console", "virtio_input", "evdev")
_OPTIONAL = ("virtio_iommu",)  # Debian's 6.1 has none
_LOADER = "lib64/ld-linux-x86-64.so.2"


@dataclass(frozen=True)
class Payload:
    """What a guest gets besides the basics."""

    programs: tuple[Path, ...] = ()
    modules: tuple[Path, ...] = ()  # loaded by whoever wants them
    kernel_modules: tuple[str, ...] = ()  # names of the kernel's own, loaded at boot


def ensure(tree: Tree, payload: Payload, cache: Cache) -> Path:
    """The initramfs for a tree's kernel with a payload, from the cache if it is there."""
    files = [*payload.programs, *payload.modules]
    key = key_of(
        [
            _FORMAT,
            tree.root.name,
            _init_script(),
            *payload.kernel_modules,
            *(part for f in files for part in (f.name, f.read_bytes())),
        ]
    )

    def build(target: Path) -> None:
        (target / "initramfs.cpio").write_bytes(make(tree, payload))

    return cache.entry("initramfs", key, build) / "initramfs.cpio"


def make(tree: Tree, payload: Payload) -> bytes:
    """The archive. Raises SetupError if the tree lacks a module or library."""
    stream = io.BytesIO()
    cpio = CpioWriter(stream)
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "sbin"):
        cpio.directory(name)
    # The kernel opens it for init before devtmpfs is there.
    cpio.character_device("dev/console", 5, 1)
    cpio.file("init", _init_script(), executable=True)
    cpio.file("bin/busybox", (tree.root / "usr/bin/busybox").read_bytes(), executable=True)
    _add_modules(cpio, tree, payload)
    _add_agent(cpio, tree)
    for program in payload.programs:
        cpio.file(f"bin/{program.name}", program.read_bytes(), executable=True)
    cpio.finish()
    return stream.getvalue()


def _init_script() -> bytes:
    return importlib.resources.files("vdxgk_lab").joinpath("guest_init.sh").read_bytes()


def _add_modules(cpio: CpioWriter, tree: Tree, payload: Payload) -> None:
    basics = [
        name
        for name in _MODULES
        if name not in _OPTIONAL or kernel_modules.exists(tree.modules, name)
    ]
    order = kernel_modules.load_order(tree.modules, (*basics, *payload.kernel_modules))
    names = []
    for path in order:
        name = path.name.removesuffix(".xz")
        cpio.file(f"lib/modules/{name}", kernel_modules.read(path))
        names.append(name)
    cpio.file("lib/modules/order", "".join(f"{name}\n" for name in names).encode())
    for path in payload.modules:
        cpio.file(f"lib/modules/{path.name}", path.read_bytes())


def _add_agent(cpio: CpioWriter, tree: Tree) -> None:
    agent = "usr/sbin/qemu-ga"
    cpio.file(agent, (tree.root / agent).read_bytes(), executable=True)
    loader, *options, program = tree.command(agent)
    listing = processes.output([loader, *options, "--list", program])
    if "not found" in listing:
        raise SetupError(f"qemu-ga lacks a library: {listing}")
    for line in listing.splitlines():  # <name> => <path> (<address>)
        name, arrow, rest = line.strip().partition(" => ")
        if arrow and not name.startswith("/"):
            cpio.file(f"lib/{name}", Path(rest.rpartition(" (")[0]).read_bytes())
    cpio.file(_LOADER, (tree.root / _LOADER).read_bytes(), executable=True)
