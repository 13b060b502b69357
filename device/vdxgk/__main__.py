"""`python -m vdxgk`: the adapter's commands."""

from vdxgk.cli import main

main(prog_name="python -m vdxgk")
