"""`vdxgk setup`."""

import click

from vdxgk_lab import artifacts
from vdxgk_lab.progress import Reporter


@click.command()
def setup() -> None:
    """Download and build what the guests need: QEMU, a kernel, the stub, an initramfs.

    Packages come from Debian, verified by signature, into the cache
    directory ($VDXGK_CACHE, by default ~/.cache/vdxgk); the system's own
    packages stay as they are. What is there already is not made again.
    """
    reporter = Reporter()
    made = artifacts.prepare(reporter=reporter)
    reporter.note(
        f"ready: QEMU {made.qemu.version} from {made.qemu.origin}, Linux {made.kernel_release}"
    )
