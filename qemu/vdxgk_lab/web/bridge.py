"""Bytes between a viewer's WebSocket and the adapter's VNC socket, neither looked at nor kept."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSMsgType, web

_CHUNK = 64 << 10


async def carry(viewer: web.WebSocketResponse, path: str, send_seconds: float) -> None:
    """Until one of them hangs up.

    Raises OSError if nobody listens at ``path``.  A viewer that takes nothing for
    ``send_seconds`` is hung up on.
    """
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        await first_of(_to_adapter(viewer, writer), _to_viewer(reader, viewer, send_seconds))
    finally:
        writer.close()


async def first_of(*ways: Coroutine[Any, Any, object]) -> None:
    """Run them side by side until one ends, by whatever; it is the end of the others.

    A connection that broke or stalled is an end like any other; raises what is not.
    """
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError):  # TimeoutError is one
            raise end


async def _to_adapter(viewer: web.WebSocketResponse, writer: asyncio.StreamWriter) -> None:
    async for message in viewer:
        if message.type is not WSMsgType.BINARY:
            return
        writer.write(message.data)
        await writer.drain()


async def _to_viewer(
    reader: asyncio.StreamReader, viewer: web.WebSocketResponse, send_seconds: float
) -> None:
    while data := await reader.read(_CHUNK):
        async with asyncio.timeout(send_seconds):
            await viewer.send_bytes(data)
