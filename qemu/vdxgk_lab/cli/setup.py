"""`vdxgk setup`."""

from typing import Literal

import click

from vdxgk_lab import artifacts, trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.progress import Reporter


@click.command()
@click.option(
    "--kernel",
    type=click.Choice([*trees.KERNELS, "all"]),
    envvar="KERNEL",
    default=trees.DEFAULT_KERNEL,
    show_default=True,
    help="The guest's Linux.",
)
def setup(kernel: trees.Kernel | Literal["all"]) -> None:
    """Download and build what the guests need: QEMU, a kernel, the stub, an initramfs.

    And noVNC, for the web page.

    Packages come from Debian, verified by signature, into the cache
    directory ($VDXGK_CACHE, by default ~/.cache/vdxgk); the system's own
    packages stay as they are. What is there already is not made again.
    """
    reporter = Reporter()
    trees.ensure(trees.NOVNC, Cache(), reporter)
    for each in trees.KERNELS if kernel == "all" else (kernel,):
        made = artifacts.prepare(each, reporter=reporter)
        reporter.note(
            f"ready: QEMU {made.qemu.version} from {made.qemu.origin}, Linux {made.kernel_release}"
        )
