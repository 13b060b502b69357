"""A QMP peer (QEMU's monitor, or the guest agent) for synchronous callers.

The protocol is qemu.qmp's; its event loop runs in a thread of its own.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from vdxgk_lab.errors import VmError, VmLost

_T = TypeVar("_T")

# The guest agent sends a command's whole output in one.
_LONGEST_LINE = 48 << 20

Json: TypeAlias = Any  # what a JSON document holds

# The library logs each lost connection as an error; here it is an exception.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Refused(VmError):  # noqa: N818
    """The peer answered a command with an error."""


class EventLoopThread:
    """An asyncio event loop for the synchronous."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine to its end, and answer what it does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """End the thread; nothing may be running in it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class QmpPeer:
    """One connection. Every call blocks; none longer than its time limit."""

    def __init__(self, loop: EventLoopThread, name: str) -> None:
        """Prepare; :meth:`connect` talks."""
        self._loop = loop
        self._name = name
        self._client = QMPClient(name, readbuflen=_LONGEST_LINE)

    def connect(self, peer: socket.socket, handshake: bool, timeout: float) -> None:
        """Take over a connected socket.

        `handshake`: the peer greets and negotiates, as monitors do and guest
        agents do not. Raises VmLost if it does not within `timeout` seconds.
        """
        self._client.await_greeting = self._client.negotiate = handshake

        async def go() -> None:
            async with asyncio.timeout(timeout):
                await self._client.connect(peer)

        try:
            self._loop.run(go())
        except (QMPError, TimeoutError, OSError) as error:
            raise VmLost(f"{self._name} does not answer: {_reason(error)}.") from error

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, timeout: float = 30
    ) -> Json:
        """What the peer returns for a command.

        Raises Refused if that is an error, VmLost if the connection is gone
        or there is no answer within `timeout` seconds.
        """

        async def go() -> object:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)

        try:
            return self._loop.run(go())
        except ExecuteError as error:
            raise Refused(f"{self._name} refused {command}: {error}.") from error
        except (QMPError, TimeoutError, OSError) as error:
            raise VmLost(f"{self._name} did not answer {command}: {_reason(error)}.") from error

    def close(self) -> None:
        """End the connection, in whatever state it is."""

        async def go() -> None:
            # What ended the connection was reported to whoever used it.
            with contextlib.suppress(Exception):
                await self._client.disconnect()

        self._loop.run(go())


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "time is up"
    return str(error) or type(error).__name__
