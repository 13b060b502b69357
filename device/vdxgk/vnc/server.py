"""The VNC server's socket: one thread for each viewer, none that wakes up without one.

It listens at a UNIX socket of the user's own, so the file system says who may
look and type.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from structlog.typing import FilteringBoundLogger

from vdxgk import allocator
from vdxgk.channel import layout
from vdxgk.control import ControlError, remove_stale_socket
from vdxgk.display.changes import ChangeTracker
from vdxgk.display.display import Display
from vdxgk.memory.limits import Quotas
from vdxgk.vnc.protocol import (
    Connection,
    CursorChange,
    Event,
    Key,
    Pointer,
    ProtocolError,
    UpdateRequest,
)

MAX_VIEWERS = Quotas().viewers
SEND_SECONDS = 30.0
"""A viewer that takes nothing for so long is hung up on."""

_RECEIVE = 1 << 16
_MAX_KEYS_DOWN = 64

# While the picture changes, look at each vertical blank; while it does not, ever less.
_FRAME = 1 / layout.SCANOUT_HZ
_SLOWEST = 0.25
_SLOWER = 1.3

# After an accept() that failed.
_AGAIN = 1.0

OnInput = Callable[[dict[str, Any]], None]


class VncServer:
    """Serves a display to ``viewers`` at most, at ``path``.

    Raises ControlError if it cannot be had.
    """

    def __init__(
        self,
        path: str,
        display: Display,
        on_input: OnInput,
        log: FilteringBoundLogger,
        viewers: int = MAX_VIEWERS,
    ) -> None:
        self._path = path
        self._display = display
        self._on_input = on_input
        self._log = log
        self._limit = viewers
        self._viewers: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        try:
            remove_stale_socket(path)
            self._listener = _listen(path, viewers)
        except OSError as error:
            raise ControlError(f"cannot listen at {path}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._accept, name="vnc", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Hang up on every viewer, and end."""
        with self._lock:
            self._stopping.set()
            viewers = dict(self._viewers)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.close()
        for connection in viewers:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in viewers.values():
            thread.join()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                # Mostly EMFILE, which passes: whoever waits in the backlog is served then.
                self._log.warning("a viewer cannot connect now", reason=str(error))
                self._stopping.wait(_AGAIN)
                continue
            thread = threading.Thread(
                target=self._serve, args=[connection], name="vnc viewer", daemon=True
            )
            with self._lock:
                welcome = len(self._viewers) < self._limit and not self._stopping.is_set()
                if welcome:
                    self._viewers[connection] = thread
                    try:
                        thread.start()
                    except RuntimeError as error:  # out of threads
                        del self._viewers[connection]
                        self._log.warning("a viewer cannot be served now", reason=str(error))
                        welcome = False
            if not welcome:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        self._log.info("viewer connected")
        try:
            Viewer(connection, self._display, self._on_input).serve()
        except (ProtocolError, OSError) as error:
            self._log.info("viewer hung up on", reason=str(error))
        except Exception:
            self._log.exception("internal error")
        finally:
            with self._lock:
                del self._viewers[connection]
                last = not self._viewers
            connection.close()
            if last:
                allocator.give_back()
            self._log.info("viewer gone")


def _listen(path: str, backlog: int) -> socket.socket:
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        old_mask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(old_mask)
        undo.callback(os.unlink, path)
        listener.listen(backlog)
        undo.pop_all()
    return listener


class Viewer:
    """One connection, on its own thread."""

    def __init__(self, connection: socket.socket, display: Display, on_input: OnInput) -> None:
        connection.settimeout(SEND_SECONDS)
        self._socket = connection
        self._poll = select.poll()  # select() stops at descriptor 1023
        self._poll.register(connection, select.POLLIN)
        self._on_input = on_input
        self._display = display
        self._tracker = ChangeTracker(display)
        self._cursor = CursorChange(None)  # what the viewer draws itself
        self._protocol = Connection("vdxgk", *display.size())
        self._wants_update = False
        self._pause = _FRAME
        self._due = time.monotonic()
        self._keys_down: set[int] = set()
        self._pointer: Pointer | None = None

    def serve(self) -> None:
        """Until the viewer hangs up.  Raises ProtocolError, OSError."""
        try:
            while True:
                self._send()
                # Without a request nothing can be sent: nobody needs to look.
                wait = max(0.0, self._due - time.monotonic()) if self._wants_update else None
                if self._poll.poll(wait and math.ceil(wait * 1000)):
                    data = self._socket.recv(_RECEIVE)
                    if not data:
                        return
                    for event in self._protocol.receive(data):
                        self._handle(event)
                if self._wants_update and time.monotonic() >= self._due:
                    self._look()
        finally:
            self._release()
            self._protocol.close()

    def _send(self) -> None:
        if data := self._protocol.to_send():
            self._socket.sendall(data)

    def _look(self) -> None:
        now = time.monotonic()
        cursor = self._new_cursor()
        screen, changes = self._tracker.look(with_cursor=not self._protocol.draws_cursor)
        if self._protocol.resize(screen.width, screen.height):
            self._tracker.forget()
        elif changes or cursor:
            self._protocol.update(changes, cursor)
            self._cursor = cursor or self._cursor
        else:
            self._pause = min(self._pause * _SLOWER, _SLOWEST)
            self._due = now + self._pause
            return
        self._pause = _FRAME
        # From when it was due, not from when it was done: the rate is kept on average.
        self._due = max(self._due + _FRAME, now)
        self._wants_update = False

    def _new_cursor(self) -> CursorChange | None:
        """The cursor, if the viewer draws it and does not have it yet."""
        pipe = self._display.pipe
        cursor = pipe.cursor if pipe and self._protocol.draws_cursor else None
        return CursorChange(cursor) if cursor is not self._cursor.cursor else None

    # ---- what the person does -------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, UpdateRequest):
            self._wants_update = True
            if not event.incremental:
                self._tracker.forget()
            return
        # What a person does is answered soon.
        self._due -= self._pause - _FRAME
        self._pause = _FRAME
        if isinstance(event, Pointer):
            self._point(event)
        elif event.down and len(self._keys_down) < _MAX_KEYS_DOWN:
            self._keys_down.add(event.keysym)
            self._key(event)
        elif not event.down and event.keysym in self._keys_down:
            self._keys_down.discard(event.keysym)
            self._key(event)

    def _key(self, event: Key) -> None:
        self._on_input({"type": "key", "down": event.down, "keysym": event.keysym})

    def _point(self, event: Pointer) -> None:
        self._pointer = event
        self._on_input(
            {
                "type": "pointer",
                "buttons": event.buttons,
                "x": min(event.x, self._protocol.width - 1),
                "y": min(event.y, self._protocol.height - 1),
                "width": self._protocol.width,
                "height": self._protocol.height,
            }
        )

    def _release(self) -> None:
        """Let no key and no button stay down when the viewer is gone."""
        for keysym in self._keys_down:
            self._key(Key(False, keysym))
        if self._pointer and self._pointer.buttons:
            self._point(Pointer(0, self._pointer.x, self._pointer.y))
