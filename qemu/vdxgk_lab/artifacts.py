"""Everything that a machine is started from, set up on first use."""

import platform
from dataclasses import dataclass
from pathlib import Path

from vdxgk_lab import host, initramfs, kernel_modules, qemu_binary, stub_build, trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import SetupError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.trees import Kernel


@dataclass(frozen=True)
class Artifacts:
    """A QEMU, and a guest for it."""

    qemu: QemuBinary
    kernel_release: str
    kernel_image: Path
    initramfs: Path
    virtio_iommu: bool  # whether the kernel drives that IOMMU


def prepare(
    kernel: Kernel = trees.DEFAULT_KERNEL,
    cache: Cache | None = None,
    reporter: Reporter | None = None,
) -> Artifacts:
    """Download and build what is missing for one kernel; quick, and off-line, if nothing is.

    Raises SetupError, or Misconfigured if `$QEMU` will not do.
    """
    cache = cache or Cache()
    reporter = reporter or Reporter()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"this is {platform.system()} on {platform.machine()}; the guests need Linux on x86_64."
        )
    host.ensure_tools(reporter)
    qemu = qemu_binary.find(cache, reporter)
    tree = trees.ensure(trees.GUESTS[kernel], cache, reporter)
    stub = stub_build.ensure(tree, cache, reporter)
    payload = initramfs.Payload(programs=(stub.control,), modules=(stub.module,))
    return Artifacts(
        qemu=qemu,
        kernel_release=tree.kernel_release,
        kernel_image=tree.kernel_image,
        initramfs=initramfs.ensure(tree, payload, cache),
        virtio_iommu=kernel_modules.exists(tree.modules, "virtio_iommu"),
    )
