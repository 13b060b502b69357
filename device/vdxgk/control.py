"""The control door: what is going on, asked over a private UNIX socket.

It speaks QMP's framing (a greeting, then one JSON object a line: execute,
arguments, id; return or error), so that any QMP client can use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from structlog.typing import FilteringBoundLogger

Connected = Callable[[], bool]
"""Whether who asked is still there.  A command that waits asks it before it gives anything away."""
Command = Callable[[Mapping[str, Any], Connected], object]

MAX_LINE = 64 << 10
"""Bytes in one request."""
MAX_CLIENTS = 8

# After an accept() that failed.
_AGAIN = 1.0


class ControlError(Exception):
    """A command that cannot be carried out; the text is the answer."""


class ControlServer:
    """Serves ``commands`` at ``path``, for the owner of the process only.

    Raises ControlError if ``path`` cannot be had.
    """

    def __init__(
        self, path: str, commands: Mapping[str, Command], log: FilteringBoundLogger
    ) -> None:
        self._path = path
        old_mask = os.umask(0o177)
        try:
            remove_stale_socket(path)
            self._server = _Server(path, commands, log)
        except OSError as error:
            raise ControlError(f"cannot listen at {path}: {error.strerror or error}") from error
        finally:
            os.umask(old_mask)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; connections are dropped with the process."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def remove_stale_socket(path: str) -> None:
    """Remove what a server that was killed left behind, and nothing else.

    Raises ControlError if there is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} exists and is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise ControlError(f"another server is listening at {path}; choose another path")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, path: str, commands: Mapping[str, Command], log: FilteringBoundLogger
    ) -> None:
        self.log = log
        self.commands = commands
        self.stopping = threading.Event()
        self.places = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(path, _Client, bind_and_activate=False)
        with contextlib.ExitStack() as undo:
            undo.callback(self.server_close)
            self.socket.bind(path)
            undo.callback(os.unlink, path)
            self.server_address = path
            self.server_activate()
            undo.pop_all()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        # The base class wakes twice a second to see whether to stop; ours is woken.
        super().serve_forever(poll_interval=3600)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            # Mostly EMFILE, which passes: whoever waits is asked for again then.  The base
            # class would do so at once, and without end.
            self.log.warning("the control door cannot accept now", reason=str(error))
            self.stopping.wait(_AGAIN)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Instead of a traceback on standard error; out of threads, for example."""
        self.log.error("a control client was hung up on", reason=str(sys.exc_info()[1]))

    def shutdown(self) -> None:
        self.stopping.set()
        stopper = threading.Thread(target=super().shutdown, daemon=True)
        stopper.start()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        stopper.join(5)


class _Client(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        if not self.server.places.acquire(blocking=False):
            self._send({"error": {"class": "GenericError", "desc": "too many connections"}})
            return
        try:
            self._serve()
        except OSError:  # it has gone
            pass
        finally:
            self.server.places.release()

    def _serve(self) -> None:
        self._send({"QMP": {"version": {"package": "vdxgk"}, "capabilities": []}})
        while line := self.rfile.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                self._send(_error(None, f"a request is at most {MAX_LINE} bytes"))
                return
            self._send(self._answer(line))

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            return _error(None, f"not JSON: {error}")
        if not isinstance(request, dict):
            return _error(None, "a request is a JSON object")
        identity = request.get("id")
        name = request.get("execute")
        arguments = request.get("arguments", {})
        if name == "qmp_capabilities":
            return {"return": {}, "id": identity}
        command = self.server.commands.get(name) if isinstance(name, str) else None
        if command is None:
            known = ", ".join(sorted(self.server.commands))
            return _error(identity, f"no command {name!r}; there are {known}", "CommandNotFound")
        if not isinstance(arguments, dict):
            return _error(identity, "arguments are a JSON object")
        try:
            return {"return": command(arguments, self._connected), "id": identity}
        except ControlError as error:
            return _error(identity, str(error))
        except Exception:
            self.server.log.exception("internal error", command=name)
            return _error(identity, "internal error, see the log")

    def _connected(self) -> bool:
        state = select.poll()
        state.register(self.connection, 0)  # a hang-up is told unasked; half of one is none
        return not state.poll(0)

    def _send(self, message: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")


def _error(identity: object, text: str, kind: str = "GenericError") -> dict[str, Any]:
    return {"error": {"class": kind, "desc": text}, "id": identity}


def ask(path: str, command: str, timeout: float = 10.0, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Ask the server at ``path``; returns the answer.

    Raises ControlError for an error answer, OSError if nobody answers within
    ``timeout`` seconds.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.readline()
            stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline() or "{}")
    if "return" not in answer:
        raise ControlError(answer.get("error", {}).get("desc", "the connection was closed"))
    return answer["return"]
