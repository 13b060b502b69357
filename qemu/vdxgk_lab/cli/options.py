"""Options that several commands have."""

from __future__ import annotations

import click

from vdxgk_lab import trees
from vdxgk_lab.command_line import ACCELERATORS

accelerator = click.option(
    "--accelerator",
    type=click.Choice(ACCELERATORS),
    default="auto",
    show_default=True,
    help="auto asks $ACCEL, then takes KVM where it runs guests.",
)

kernel = click.option(
    "--kernel",
    type=click.Choice(trees.KERNELS),
    envvar="KERNEL",
    default=trees.DEFAULT_KERNEL,
    show_default=True,
    help="The guest's Linux; downloaded when first asked for.",
)
