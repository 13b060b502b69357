"""`vdxgk boot`."""

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from vdxgk.cli import Size, dma_bits_option
from vdxgk_lab import artifacts, firmware, trees
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import IOMMUS, Accelerator, Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.viewer_input import ViewerInput

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
    kernel_args: tuple[str, ...],
    qemu_args: tuple[str, ...],
) -> None:
    """Boot a guest with the device, and give its console.

    A shell runs there, with dxgkctl to drive the stub. `exit` ends the
    machine, and so does Ctrl-A X. With --vnc another shell runs on the screen.
    """
    made = artifacts.prepare(kernel)
    rom = firmware.rom_options(made.qemu)
    serve_options = ["--dma-bits", str(dma_bits), *rom]
    words = ["vdxgk_shell=yes"]
    if vnc_path:
        serve_options += [*_SCREEN, "--vnc", str(vnc_path)]
        words += [_SCREEN_CONSOLE] if rom else []
    with (
        RunDirectory("boot") as run,
        DeviceProcess(run.path, serve_options) as device,
    ):
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
        with ExitStack() as stack:
            machine = stack.enter_context(Machine(config, made, run.path))
            if vnc_path:
                stack.enter_context(ViewerInput(device.control, machine.qmp))
            status = machine.wait()
    sys.exit(status)
