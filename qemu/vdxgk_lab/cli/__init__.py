"""The `vdxgk` command. Each subcommand's module is imported when it is called for."""

import importlib
import signal
import sys
from typing import IO, Any

import click

from vdxgk_lab.errors import LabError

# name: (module:attribute, what it does)
COMMANDS = {
    "run": ("vdxgk_lab.cli.run:run", "Boot a guest, remap, do DMA both ways, verify, report."),
    "boot": ("vdxgk_lab.cli.boot:boot", "Boot a guest with the device, and give its console."),
    "web": ("vdxgk_lab.cli.web:web", "Serve a web page that shows an adapter, live."),
    "serve": ("vdxgk.cli:serve", "Serve the adapter at a socket, for any QEMU."),
    "status": ("vdxgk.cli:status", "Tell what a served adapter holds."),
    "screenshot": ("vdxgk.cli:screenshot", "Write what a served adapter shows to a PNG file."),
    "audit": ("vdxgk_lab.cli.audit:audit", "What guest memory a device could reach, and when."),
    "staleness": (
        "vdxgk_lab.cli.staleness:staleness",
        "For how long a device reaches a page that was unmapped.",
    ),
    "conformance": (
        "vdxgk_lab.cli.conformance:conformance",
        "Run the conformance vectors, against any implementation.",
    ),
    "bench": ("vdxgk_lab.cli.bench:bench", "Measure the device against this machine's floor."),
    "setup": ("vdxgk_lab.cli.setup:setup", "Download and build what the guests need."),
    "doctor": ("vdxgk_lab.cli.doctor:doctor", "What this host lacks, and the line that fixes it."),
}


class Failure(click.ClickException):
    """A LabError, as a person at a terminal reads it."""

    def __init__(self, error: LabError) -> None:
        """Take over the message, the hint and the notes."""
        super().__init__(error.message)
        self._more = [error.hint, *getattr(error, "__notes__", [])]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print to standard error."""
        click.echo(f"vdxgk: {self.message}", file=file, err=True)
        for text in self._more:
            if text:
                click.echo(text, file=file, err=True)


class LazyGroup(click.Group):
    """Finds its commands in a table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click declares it
        """Run a command; a LabError becomes a few lines and exit status 1."""
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise Failure(error) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vdxgk")
def main() -> None:
    """A virtual GPU for QEMU that proves GPU DMA remapping end to end."""
    # A terminated command cleans up behind itself, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
