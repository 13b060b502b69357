"""`python -m vdxgk_lab`: the `vdxgk` command."""

from vdxgk_lab.cli import main

main(prog_name="vdxgk")
