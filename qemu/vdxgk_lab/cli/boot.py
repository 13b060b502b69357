"""`vdxgk boot`."""

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vdxgk.cli import dma_bits_option
from vdxgk.cli_types import Size
from vdxgk_lab import artifacts, firmware, trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import IOMMUS, Accelerator, Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine
from vdxgk_lab.progress import Reporter
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.viewer_input import ViewerInput

if TYPE_CHECKING:
    from vdxgk_lab.web.server import WebServer

_SCREEN = ("--mode", "1024x768")
_SCREEN_CONSOLE = "vga=0x344"  # the VBE mode of that size: the kernel's console is there too


@click.command()
@click.option("--memory", type=Size(), default="1G", show_default=True, help="Guest memory.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--iommu", type=click.Choice(IOMMUS), default="intel", show_default=True)
@dma_bits_option
@options.accelerator
@options.kernel
@click.option(
    "--vnc",
    "vnc_path",
    type=click.Path(path_type=Path),
    help="A UNIX socket for VNC viewers, who see the screen, type and point.",
)
@click.option("--web", is_flag=True, help="A web page with the same, and what the device holds.")
@click.option("--kernel-arg", "kernel_args", multiple=True, help="For the guest's command line.")
@click.option("--qemu-arg", "qemu_args", multiple=True, help="One more word for QEMU's.")
def boot(
    *,
    memory: int,
    cpus: int,
    iommu: Iommu,
    dma_bits: int,
    accelerator: Accelerator,
    kernel: trees.Kernel,
    vnc_path: Path | None,
    web: bool,
    kernel_args: tuple[str, ...],
    qemu_args: tuple[str, ...],
) -> None:
    """Boot a guest with the device, and give its console.

    A shell runs there, with dxgkctl to drive the stub. `exit` ends the
    machine, and so does Ctrl-A X. With --vnc or --web another shell runs on
    the screen. The page's address, with its token, is printed first.
    """
    made = artifacts.prepare(kernel)
    rom = firmware.rom_options(made.qemu)
    serve_options = ["--dma-bits", str(dma_bits), *rom]
    words = ["vdxgk_shell=yes"]
    with ExitStack() as stack:
        run = stack.enter_context(RunDirectory("boot"))
        if web and not vnc_path:
            vnc_path = run.path / "device.vnc"
        if vnc_path:
            serve_options += [*_SCREEN, "--vnc", str(vnc_path)]
            words += [_SCREEN_CONSOLE] if rom else []
        device = stack.enter_context(DeviceProcess(run.path, serve_options))
        config = MachineConfig(
            memory=memory,
            cpus=cpus,
            iommu=iommu,
            accelerator=accelerator,
            devices=(device.socket,),
            tablet=vnc_path is not None,
            kernel_args=(*words, *kernel_args),
            qemu_args=qemu_args,
            console="stdio",
        )
        machine = Machine(config, made, run.path)
        if web:
            stack.enter_context(_page(device, machine, made))
        stack.enter_context(machine)
        if vnc_path:
            stack.enter_context(ViewerInput(device.control, machine.qmp))
        status = machine.wait()
    sys.exit(status)


def _page(device: DeviceProcess, machine: Machine, made: artifacts.Artifacts) -> "WebServer":
    from vdxgk_lab.web.server import WebServer  # noqa: PLC0415 - not every guest has a page

    facts = {
        "qemu": f"QEMU {made.qemu.version}",
        "iommu": f"{machine.config.iommu} IOMMU" if machine.config.iommu != "none" else "no IOMMU",
        "kernel": f"Linux {made.kernel_release}",
        "accelerator": machine.accelerator.upper(),
    }
    novnc = trees.ensure(trees.NOVNC, Cache(), Reporter())
    page = WebServer(device.control, novnc, machine=facts, typing=nullcontext)
    click.echo(f"Open {page.url}")
    return page
