"""The adapter's commands: serve, status and screenshot."""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal

import click

from vdxgk.cli_types import ModeType, Size, Vram
from vdxgk.display.edid import Mode
from vdxgk.limit_options import limit_options
from vdxgk.log import configure
from vdxgk.memory.limits import Quotas

dma_bits_option = click.option(
    "--dma-bits",
    type=click.IntRange(28, 64),
    default=32,
    show_default=True,
    help="Width of the addresses that the device can emit.",
)


@click.command()
@click.option(
    "--socket",
    "sockets",
    required=True,
    multiple=True,
    help="Where QEMU connects. Once more: one more adapter, which shares nothing with the others.",
)
@click.option(
    "--control",
    "controls",
    multiple=True,
    help="The control door, for each socket in turn. [default: SOCKET.control]",
)
@dma_bits_option
@click.option("--vram", type=Vram(), default="16M", show_default=True, help="Framebuffer size.")
@click.option(
    "--mode",
    type=ModeType(),
    default="1280x800",
    show_default=True,
    help="What the monitor prefers; guests start in it.",
)
@click.option(
    "--rom",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Boot ROM, with which a BIOS shows something: QEMU's vgabios-bochs-display.bin.",
)
@click.option(
    "--dma-policy",
    type=click.Choice(["tolerant", "strict"]),
    default="tolerant",
    show_default=True,
    help="How DMA_MAP and DMA_UNMAP are judged; QEMU behind an IOMMU needs tolerant.",
)
@click.option(
    "--vnc",
    "viewers",
    multiple=True,
    help="A UNIX socket for VNC viewers, for this user only; for each socket in turn.",
)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    help="A file for all vfio-user messages, for each socket in turn; "
    "`python -m pyvfio_user trace FILE` prints it.",
)
@click.option(
    "--trace-limit",
    type=Size(),
    default="1G",
    show_default=True,
    help="The most that such a file may grow to.",
)
@click.option(
    "--audit",
    "audits",
    multiple=True,
    help="A file for all mappings of guest memory, for each socket in turn; "
    "`vdxgk audit FILE` reads it.",
)
@click.option(
    "--audit-limit",
    type=Size(),
    default="256M",
    show_default=True,
    help="The most that such a file may grow to.",
)
@limit_options
@click.option("--scatter-seed", type=int, default=0, help="Repeatable scattering of MDL pages.")
@click.option(
    "--linked", is_flag=True, help="The sockets are functions of one logical adapter; 2 to 4."
)
@click.option(
    "--sandbox",
    is_flag=True,
    help="Once the sockets are open, give up files, network, programs and privileges (Landlock).",
)
@click.option(
    "--msi",
    is_flag=True,
    help="Interrupts by MSI, not MSI-X: QEMU 11.1 may abort when a device with MSI-X is unplugged.",
)
@click.option("--misbehave", is_flag=True, help="Allow fault injection through the control door.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option("--ready-fd", type=int, default=-1, hidden=True)
def serve(
    *,
    sockets: Sequence[str],
    controls: Sequence[str],
    dma_bits: int,
    vram: int,
    mode: Mode,
    rom: Path | None,
    dma_policy: Literal["tolerant", "strict"],
    quotas: Quotas,
    viewers: Sequence[str],
    traces: Sequence[str],
    trace_limit: int,
    audits: Sequence[str],
    audit_limit: int,
    scatter_seed: int,
    linked: bool,
    sandbox: bool,
    msi: bool,
    misbehave: bool,
    as_json: bool,
    log_level: str,
    ready_fd: int,
) -> None:
    """Serve the adapter at a socket: any QEMU with vfio-user-pci attaches to it.

    One client after another, until SIGTERM or Ctrl-C.  A --socket at which systemd listens
    already (LISTEN_FDS) is taken over, and systemd goes on with it afterwards.
    """
    lists = {"--control": controls, "--vnc": viewers, "--trace": traces, "--audit": audits}
    for option, paths in lists.items():
        if paths and len(paths) != len(sockets):
            raise click.UsageError(f"{len(sockets)} --socket but {len(paths)} {option}")
    if linked and not 2 <= len(sockets) <= 4:
        raise click.UsageError(f"--linked with {len(sockets)} --socket: give 2 to 4")
    configure(as_json, log_level, lines=quotas.log_lines)
    # Arrays are moved here, not multiplied: no threads for that.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Here, so that --help and mistakes are answered at once.
    from pyvfio_user import ServerError  # noqa: PLC0415
    from vdxgk import function  # noqa: PLC0415
    from vdxgk.activation import inherited_listeners  # noqa: PLC0415
    from vdxgk.adapter import AdapterOptions  # noqa: PLC0415
    from vdxgk.audit.writer import AuditError  # noqa: PLC0415
    from vdxgk.control import ControlError  # noqa: PLC0415
    from vdxgk.display.rom import read_rom  # noqa: PLC0415
    from vdxgk.serve import Doors, serve_until_told  # noqa: PLC0415

    try:
        options = AdapterOptions(
            dma_bits=dma_bits,
            vram=vram,
            mode=mode,
            rom=read_rom(rom, function.VENDOR_ID, function.DEVICE_ID) if rom else None,
            dma_policy=dma_policy,
            quotas=quotas,
            scatter_seed=scatter_seed,
            misbehave=misbehave,
            msi=msi,
        )
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    controls = controls or [f"{path}.control" for path in sockets]
    columns = itertools.zip_longest(sockets, controls, viewers, traces, audits)
    try:
        listening = inherited_listeners(sockets)
        doors = [
            Doors(*paths, trace_limit, audit_limit, listening.get(paths[0])) for paths in columns
        ]
        if not serve_until_told(doors, options, ready_fd, linked=linked, sandbox=sandbox):
            raise click.ClickException("an adapter was given up; the log says why")
    except (ServerError, ControlError, AuditError) as error:
        raise click.ClickException(str(error)) from error
    except (OSError, MemoryError, RuntimeError) as error:
        raise click.ClickException(
            f"this host cannot serve now: {error}. See its memory, and the limits on descriptors "
            "and threads (ulimit -n -u -v)"
        ) from error


@click.command()
@click.argument("control_path", metavar="CONTROL")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(control_path: str, as_json: bool) -> None:
    """Tell what the adapter behind a control door holds."""
    from vdxgk.control import ControlError, ask  # noqa: PLC0415

    try:
        answer = ask(control_path, "query-status")
    except (ControlError, OSError) as error:
        raise click.ClickException(f"{control_path}: {error}") from error
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    modes = ", ".join(adapter["mode"] for adapter in answer["adapters"]) or "not started"
    click.echo(f"client      {'connected' if answer['connected'] else 'none'}")
    click.echo(f"adapter     {modes}, {answer['dma_bits']} address bits")
    click.echo(f"guest RAM   {answer['guest_ram']['bytes'] >> 20} MiB known")
    click.echo(
        f"donated     {answer['donated_bytes'] >> 10} KiB, {answer['free_bytes'] >> 10} free"
    )
    click.echo(f"DMA         {answer['dma_mappings']} mappings ({answer['dma_maps']} announced)")
    click.echo(f"faults      {answer['faults']['count']}")
    display = answer["display"]
    shown = "nothing" if display["blank"] else f"{display['mode']} {display['format']}"
    click.echo(f"display     {shown}, {display['vram'] >> 20} MiB")
    for target in answer["objects"]:
        click.echo(
            f"object      {target['handle']:#x} {target['type']} {target['size'] >> 10} KiB, "
            f"{target['run_count']} runs, {len(target['lists'])} lists"
        )


@click.command()
@click.argument("control_path", metavar="CONTROL")
@click.argument("target", metavar="OUT.png", type=click.File("wb", lazy=True))
def screenshot(control_path: str, target: IO[bytes]) -> None:
    """Write what is on the screen now to a PNG file (- is standard output)."""
    from vdxgk.control import ControlError, ask  # noqa: PLC0415

    try:
        answer = ask(control_path, "screenshot", timeout=60)
        target.write(base64.b64decode(answer["png"]))
    except (ControlError, OSError) as error:
        raise click.ClickException(f"{control_path}: {error}") from error


@click.group()
def main() -> None:
    """The adapter's commands alone; `vdxgk` has the laboratory's too."""


main.add_command(serve)
main.add_command(status)
main.add_command(screenshot)
