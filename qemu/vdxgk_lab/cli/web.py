"""`vdxgk web`."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import click

from vdxgk_lab import trees
from vdxgk_lab.cache import Cache
from vdxgk_lab.errors import LabError
from vdxgk_lab.progress import Reporter
from vdxgk_lab.qmp import EventLoopThread, QmpPeer
from vdxgk_lab.viewer_input import ViewerInput
from vdxgk_lab.web.server import LOOPBACK, WebServer

_QMP_SECONDS = 10


@click.command()
@click.argument("control", metavar="CONTROL", type=click.Path(path_type=Path))
@click.option(
    "--qmp",
    "qmp_path",
    type=click.Path(path_type=Path),
    help="A QMP socket of the QEMU: what is typed into the page then reaches the guest.",
)
@click.option("--listen", default=LOOPBACK, show_default=True, help="The one address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="[default: any]")
def web(*, control: Path, qmp_path: Path | None, listen: str, port: int) -> None:
    """Serve a web page of the adapter behind a control door.

    It shows the live picture (of an adapter that was started with --vnc), the
    objects, lists, mappings and faults. The address that is printed holds a
    token, and nobody sees anything without it. noVNC is downloaded on first
    use, from Debian.
    """
    novnc = trees.ensure(trees.NOVNC, Cache(), Reporter())
    with contextlib.ExitStack() as stack:
        qmp = stack.enter_context(_monitor(qmp_path)) if qmp_path else None
        server = WebServer(
            control,
            novnc,
            machine=_facts(qmp) if qmp else None,
            typing=(lambda: ViewerInput(control, qmp)) if qmp else None,
            listen=listen,
            port=port,
        )
        stack.enter_context(server)
        click.echo(f"Open {server.url}\nCtrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


@contextlib.contextmanager
def _monitor(path: Path) -> Iterator[QmpPeer]:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        try:
            connection.connect(str(path))
        except OSError as error:
            raise LabError(
                f"no QMP at {path}: {error.strerror or error}.",
                "Start QEMU with -qmp unix:PATH,server=on,wait=off; it takes one client at a time.",
            ) from error
        loop = EventLoopThread()
        stack.callback(loop.close)
        peer = QmpPeer(loop, "QEMU")
        stack.callback(peer.close)
        peer.connect(connection, handshake=True, timeout=_QMP_SECONDS)
        yield peer


def _facts(qmp: QmpPeer) -> dict[str, str]:
    version = qmp.execute("query-version")["qemu"]
    number = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
    kvm = qmp.execute("query-kvm")["enabled"]
    return {"qemu": f"QEMU {number}", "accelerator": "KVM" if kvm else "TCG"}
