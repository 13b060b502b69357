"""One server process: adapters, each with its vfio-user socket, control door and viewers."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

import structlog
from structlog.typing import FilteringBoundLogger

from pyvfio_user import Server
from pyvfio_user.trace import DEFAULT_LIMIT as TRACE_LIMIT
from vdxgk import allocator
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.audit.observer import AuditObserver
from vdxgk.audit.writer import DEFAULT_LIMIT as AUDIT_LIMIT
from vdxgk.audit.writer import AuditWriter
from vdxgk.control import Command, Connected, ControlError, ControlServer
from vdxgk.describe import describe
from vdxgk.function import Link
from vdxgk.misbehaviour import Misbehaviour
from vdxgk.vnc.input import InputQueue

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Doors:
    """Paths of one adapter's sockets: for QEMU, for questions, for viewers if any.

    Every vfio-user message goes to the file at ``trace``, if there is one, and
    every mapping to the one at ``audit``; limits are in bytes.  ``descriptor``
    listens at ``socket`` already: somebody else's, who goes on with it after us.
    """

    socket: str
    control: str
    vnc: str | None = None
    trace: str | None = None
    audit: str | None = None
    trace_limit: int = TRACE_LIMIT
    audit_limit: int = AUDIT_LIMIT
    descriptor: int | None = None

    @property
    def sockets(self) -> tuple[str, ...]:
        """What is removed in the end."""
        return self.socket, self.control, *([self.vnc] if self.vnc else [])


class ServedAdapter:
    """One adapter and its doors; a context manager that opens and shuts them.

    Several in one process share nothing but the interpreter and the log.
    Entering raises pyvfio_user.ServerError or ControlError if a socket or the
    trace cannot be had, AuditError for the audit's log.
    """

    def __init__(
        self,
        doors: Doors,
        options: AdapterOptions,
        log: FilteringBoundLogger,
        on_end: Callable[[], object],
        link: Link = Link(),  # noqa: B008 - frozen
        lead: Self | None = None,
    ) -> None:
        """``on_end`` is called, on a thread of its own, when clients are served no more."""
        self._doors = doors
        self._on_end = on_end
        self._link = link
        self._lead = lead
        self._options = options
        self._log = log
        self._cleanup = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._serve, name="protocol")
        self._starts: list[Callable[[], None]] = []
        self.ended = False
        """Whether clients are served no more."""
        self.failed = False
        """Whether the protocol ended otherwise than by `stop`."""

    def __enter__(self) -> Self:
        """Open the doors, without a thread; clients that connect wait."""
        with contextlib.ExitStack() as stack:
            lead = self._lead.adapter if self._lead else None
            self.adapter: Adapter = Adapter(self._options, self._log, self._link, lead)
            stack.callback(self.adapter.stop)
            doors = self._doors
            self._server = Server(
                self.adapter.device,
                doors.socket if doors.descriptor is None else None,
                descriptor=doors.descriptor,
                log=self._log,
                trace=doors.trace,
                trace_limit=doors.trace_limit,
            )
            stack.enter_context(self._server)
            stack.callback(self.wait)
            stack.callback(self.stop)
            audit = self._audit(stack) if self._doors.audit else None
            typed = InputQueue()
            known = commands(self.adapter, typed, audit, self._doors.vnc)
            control = ControlServer(self._doors.control, known, self._log)
            stack.callback(control.stop)
            if self._doors.vnc:
                from vdxgk.vnc.server import VncServer  # noqa: PLC0415 - numpy, for viewers

                vnc = VncServer(
                    self._doors.vnc,
                    self.adapter.display,
                    typed.put,
                    self._log,
                    self._options.quotas.viewers,
                )
                stack.callback(vnc.stop)
                self._starts.append(vnc.start)
            self._starts.append(control.start)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Hang up on everybody."""
        self._cleanup.close()

    def start(self) -> None:
        """Serve clients, on threads of its own."""
        self.adapter.start()
        for start in self._starts:
            start()
        self._thread.start()

    def stop(self) -> None:
        """Answer what its client has sent, then hang up.  At once, also in a signal handler."""
        self._server.stop()

    def wait(self) -> None:
        """Until it has stopped."""
        if self._thread.ident is not None:
            self._thread.join()

    def _audit(self, stack: contextlib.ExitStack) -> AuditWriter:
        assert self._doors.audit
        writer = AuditWriter(self._doors.audit, self._doors.audit_limit, self._log)
        stack.callback(writer.close)
        self.adapter.device.observer = AuditObserver(writer, self.adapter)
        return writer

    def _serve(self) -> None:
        try:
            self._server.serve()
        except Exception as error:
            # The others go on: their guests have done nothing.
            self.failed = True
            if isinstance(error, (OSError, RuntimeError)):  # no descriptors, no threads
                self._log.error("no client is served any more", reason=str(error))
            else:
                self._log.exception("no client is served any more")
        finally:
            self.ended = True
            self._on_end()


def serve_until_told(
    everywhere: Sequence[Doors],
    options: AdapterOptions,
    ready_fd: int,
    *,
    linked: bool = False,
    sandbox: bool = False,
) -> bool:
    """Serve an adapter at each of the doors until SIGTERM or SIGINT; whether all went well.

    ``linked``: they are functions of one logical adapter, and the first leads.

    ``sandbox``: give up what serving does not need, see vdxgk.sandbox.

    ``ready_fd`` gets one byte when clients can connect (-1: nobody asks).
    Raises pyvfio_user.ServerError, ControlError or AuditError if a socket, a file or the sandbox
    cannot be had.
    OSError or RuntimeError if this host has too few descriptors, threads or memory.
    """
    allocator.keep_little()
    if sandbox:
        from vdxgk.sandbox import enter, prepare  # noqa: PLC0415 - only who asks has to pay

        prepare()
    with contextlib.ExitStack() as stack:
        log = structlog.get_logger("vdxgk")
        # A signal just before this thread sleeps would be noticed by nobody: so it is a byte.
        woken, wake = os.pipe()
        stack.callback(os.close, woken)
        stack.callback(os.close, wake)
        os.set_blocking(wake, False)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake))
        served: list[ServedAdapter] = []

        def end() -> None:
            os.write(wake, b"\0")

        chain = secrets.randbits(32)
        for index, doors in enumerate(everywhere):
            named = log.bind(device=doors.socket) if len(everywhere) > 1 else log
            link = Link(index, len(everywhere), chain) if linked else Link()
            lead = served[0] if linked and served else None
            adapter = ServedAdapter(doors, options, named, end, link, lead)
            served.append(stack.enter_context(adapter))

        def stop(number: int, frame: FrameType | None) -> None:
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)  # one more ends the process
            for adapter in served:
                adapter.stop()

        if sandbox:
            sockets = [path for doors in everywhere for path in doors.sockets]
            log.info("sandboxed", landlock=enter(sockets))
        for number in _SIGNALS:
            signal.signal(number, stop)
        for doors, each in zip(everywhere, served, strict=True):
            each.start()
            log.info(
                "serving",
                socket=doors.socket,
                control=doors.control,
                dma_bits=options.dma_bits,
                misbehave=options.misbehave,
            )
        if ready_fd >= 0:
            with contextlib.suppress(OSError):  # who wanted to know has gone
                os.write(ready_fd, b"\n")
            os.close(ready_fd)
        while not all(each.ended for each in served):
            told = os.read(woken, 1)[0]
            if told in _SIGNALS:
                _say_farewell(log, told, served)
        for each in served:
            each.wait()
    return not any(each.failed for each in served)


def _say_farewell(log: FilteringBoundLogger, number: int, served: Sequence[ServedAdapter]) -> None:
    """What a person wants to know who has told us to stop."""
    clients = sum(each.adapter.connected_now for each in served)
    log.info(
        "stopping: clients get what they have asked for, and are hung up on. A guest goes on "
        "without its GPU, which reads as ones; its QEMU does not connect again. A second signal "
        "ends at once",
        signal=signal.Signals(number).name,
        clients=clients,
    )


def commands(
    adapter: Adapter,
    typed: InputQueue,
    audit: AuditWriter | None = None,
    vnc_path: str | None = None,
) -> Mapping[str, Command]:
    """What the control door understands."""
    vnc = os.path.abspath(vnc_path) if vnc_path else None

    def query_status(arguments: Mapping[str, Any], connected: Connected) -> object:
        limits = {name: arguments[name] for name in ("objects", "runs") if name in arguments}
        if not all(isinstance(limit, int) and limit >= 0 for limit in limits.values()):
            raise ControlError("objects and runs are numbers: how many to show")
        return {**describe(adapter, **limits), "vnc": vnc}

    def misbehave(arguments: Mapping[str, Any], connected: Connected) -> object:
        if not adapter.options.misbehave:
            raise ControlError("fault injection is off: start the server with --misbehave")
        if arguments.get("kind") == "starve":
            adapter.saboteur.starve(int(arguments.get("after", 0)))
            return {}
        try:
            kind = Misbehaviour(arguments.get("kind"))
        except ValueError:
            kinds = ", ".join([*(item.value for item in Misbehaviour), "starve"])
            raise ControlError(f"kind must be one of {kinds}") from None
        adapter.saboteur.arm(kind)
        return {}

    def mark(arguments: Mapping[str, Any], connected: Connected) -> object:
        text = arguments.get("text")
        if not isinstance(text, str):
            raise ControlError("text is what to call this moment")
        if audit is None:
            raise ControlError("nothing is recorded: start the server with --audit")
        audit.mark(text)
        return {}

    def screenshot(arguments: Mapping[str, Any], connected: Connected) -> object:
        return {"png": base64.b64encode(adapter.display.png()).decode()}

    def take_input(arguments: Mapping[str, Any], connected: Connected) -> object:
        wait = arguments.get("wait", 0)
        if not isinstance(wait, int | float):
            raise ControlError("wait is a number of seconds")
        return {"events": typed.take(wait, connected)}

    return {
        "query-status": query_status,
        "misbehave": misbehave,
        "audit-mark": mark,
        "screenshot": screenshot,
        "take-input": take_input,
    }
