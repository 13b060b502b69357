"""One server process: an adapter, its vfio-user socket, its control door."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

import structlog

from pyvfio_user import Server
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.control import Command, ControlError, ControlServer
from vdxgk.describe import describe
from vdxgk.misbehaviour import Misbehaviour
from vdxgk.vnc.input import InputQueue
from vdxgk.vnc.server import VncServer


def serve(
    socket_path: str,
    control_path: str,
    options: AdapterOptions,
    ready_fd: int,
    vnc_path: str | None = None,
    trace_path: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; viewers too, if there is a ``vnc_path``.

    ``ready_fd`` gets one byte when clients can connect (-1: nobody asks).
    Every vfio-user message goes to the file at ``trace_path``, if there is one.
    Raises pyvfio_user.ServerError or ControlError if a socket or the file
    cannot be had.
    """
    log = structlog.get_logger("vdxgk")
    adapter = Adapter(options)
    server = Server(
        adapter.device,
        socket_path,
        log=structlog.get_logger("pyvfio_user"),
        trace=trace_path,
    )
    server.open()
    typed = InputQueue()
    try:
        vnc = VncServer(vnc_path, adapter.display, typed.put) if vnc_path else None
        control = ControlServer(control_path, commands(adapter, typed))
    except BaseException:
        server.close()
        raise

    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    adapter.start()
    control.start()
    if vnc:
        vnc.start()
    log.info(
        "serving",
        socket=socket_path,
        control=control_path,
        dma_bits=options.dma_bits,
        misbehave=options.misbehave,
    )
    if ready_fd >= 0:
        os.write(ready_fd, b"\n")
        os.close(ready_fd)
    try:
        server.serve()
    finally:
        if vnc:
            vnc.stop()
        control.stop()
        adapter.stop()
        log.info("stopped")


def commands(adapter: Adapter, typed: InputQueue) -> Mapping[str, Command]:
    """What the control door understands."""

    def query_status(arguments: Mapping[str, Any]) -> object:
        return describe(adapter)

    def misbehave(arguments: Mapping[str, Any]) -> object:
        if not adapter.options.misbehave:
            raise ControlError("fault injection is off: start the server with --misbehave")
        try:
            kind = Misbehaviour(arguments.get("kind"))
        except ValueError:
            kinds = ", ".join(item.value for item in Misbehaviour)
            raise ControlError(f"kind must be one of {kinds}") from None
        adapter.saboteur.arm(kind)
        return {}

    def screenshot(arguments: Mapping[str, Any]) -> object:
        return {"png": base64.b64encode(adapter.display.png()).decode()}

    def take_input(arguments: Mapping[str, Any]) -> object:
        wait = arguments.get("wait", 0)
        if not isinstance(wait, int | float):
            raise ControlError("wait is a number of seconds")
        return {"events": typed.take(wait)}

    return {
        "query-status": query_status,
        "misbehave": misbehave,
        "screenshot": screenshot,
        "take-input": take_input,
    }
