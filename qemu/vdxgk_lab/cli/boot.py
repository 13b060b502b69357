"""`vdxgk boot`."""

import sys

import click

from vdxgk.cli import Size, dma_bits_option
from vdxgk_lab import artifacts, firmware, trees
from vdxgk_lab.cli import options
from vdxgk_lab.command_line import IOMMUS, Accelerator, Iommu, MachineConfig
from vdxgk_lab.device_process import DeviceProcess
from vdxgk_lab.machine import Machine
from vdxgk_lab.run_directory import RunDirectory


@click.command()
@click.option("--memory", type=Size(), default="1G", show_default=True, help="Guest memory.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--iommu", type=click.Choice(IOMMUS), default="intel", show_default=True)
@dma_bits_option
@options.accelerator
@options.kernel
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
    kernel_args: tuple[str, ...],
    qemu_args: tuple[str, ...],
) -> None:
    """Boot a guest with the device, and give its console.

    A shell runs there, with dxgkctl to drive the stub. `exit` ends the
    machine, and so does Ctrl-A X.
    """
    made = artifacts.prepare(kernel)
    serve_options = ["--dma-bits", str(dma_bits), *firmware.rom_options(made.qemu)]
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
            kernel_args=("vdxgk_shell=yes", *kernel_args),
            qemu_args=qemu_args,
            console="stdio",
        )
        with Machine(config, made, run.path) as machine:
            status = machine.wait()
    sys.exit(status)
