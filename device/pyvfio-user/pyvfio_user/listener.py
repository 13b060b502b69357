"""Where clients come from: a path, or a socket that the parent process left open.

A socket of our own is private: 0600, never through a symlink, one server for
each path.

A lock file beside the socket tells a live server from a stale socket without
disturbing the live one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat

from .errors import ServerError

BACKLOG = 8


class Inherited:
    """A socket from the parent process, listening or already connected to one client.

    Who made it keeps its path, if it has one, and may use it after us.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor.

        Raises ServerError, and leaves it alone, if it is no AF_UNIX stream
        socket in one of these states.
        """
        try:
            self.socket = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ServerError(f"descriptor {descriptor} is no socket: {error}") from error
        try:
            kind = (self.socket.family, self.socket.type)
            if kind != (socket.AF_UNIX, socket.SOCK_STREAM):
                raise ServerError(f"descriptor {descriptor} is no AF_UNIX stream socket")
            os.set_inheritable(descriptor, False)
            self.is_listening = bool(
                self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            )
            if not self.is_listening:
                self.socket.getpeername()
        except OSError as error:
            self.socket.detach()
            raise ServerError(f"descriptor {descriptor} is not connected: {error}") from error
        except ServerError:
            self.socket.detach()
            raise

    def close(self) -> None:
        """Close it."""
        self.socket.close()


class Listener:
    """A bound, listening socket and the lock that goes with it."""

    def __init__(self, path: str) -> None:
        """Bind to a path; a stale socket there is replaced.

        Raises ServerError if another server is listening there, if something
        else is there, or if the path cannot be used.
        """
        self.path = path
        self.is_listening = True
        self._lock_path = path + ".lock"
        self._lock = -1
        try:
            self._lock = self._take_lock()
            self._remove_stale()
            self.socket = self._bind()
        except OSError as error:
            self._drop_lock()
            raise ServerError(f"cannot listen at {path}: {error}") from error
        except BaseException:
            self._drop_lock()
            raise

    def close(self) -> None:
        """Stop listening and remove the socket, if it is still ours."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self._identity(os.lstat(self.path)) == self._bound:
                os.unlink(self.path)
        self._drop_lock()

    def _take_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            lock = os.open(self._lock_path, flags, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The server that held it may have removed the file meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if self._identity(os.fstat(lock)) == self._identity(os.lstat(self._lock_path)):
                        return lock
            except BlockingIOError:
                os.close(lock)
                raise ServerError(
                    f"another server is listening at {self.path}; stop it or choose another path"
                ) from None
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _drop_lock(self) -> None:
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._lock_path)
        os.close(self._lock)
        self._lock = -1

    def _remove_stale(self) -> None:
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise ServerError(f"{self.path} exists and is no socket; it is left alone")
        # Servers of ours hold the lock, so only a foreign one can answer this.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
            except BlockingIOError:  # its backlog is full, so it lives
                pass
        raise ServerError(
            f"another server is listening at {self.path}; stop it or choose another path"
        )

    def _bind(self) -> socket.socket:
        with contextlib.ExitStack() as undo:
            server = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # Linux creates the file with the mode of the unbound socket, so
            # that there is no moment at which others could connect.
            os.fchmod(server.fileno(), 0o600)
            server.bind(self.path)
            undo.callback(os.unlink, self.path)
            self._bound = self._identity(os.lstat(self.path))
            server.listen(BACKLOG)
            undo.pop_all()
        return server

    @staticmethod
    def _identity(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino
