"""What the adapter holds, told to every open page as it changes; silent while none is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

State = dict[str, Any]

INTERVAL = 0.4
"""Seconds between two questions to the adapter, while somebody looks."""
_SHARE = 20
"""An adapter that answers slowly is asked less often: this many times the answer's time apart."""
LONGEST_PAUSE = 5.0
"""But never longer, in seconds: one slow answer must not keep a page from what comes next."""
_OBJECTS = 256
_RUNS = 8
_ANSWER_SECONDS = 30
_LONGEST_ANSWER = 16 << 20
_SAFE = (1 << 53) - 1


class AdapterGone(Exception):  # noqa: N818 - it names a state
    """Nobody answers at the control door; the text says why."""


class ControlDoor:
    """A connection to the control door, made when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, command: str, **arguments: object) -> State:
        """One answer; raises AdapterGone."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = self._streams or await self._connect()
                request = {"execute": command, "arguments": arguments}
                writer.write(json.dumps(request).encode() + b"\n")
                answer = json.loads(await reader.readline() or b"{}")
        except (OSError, ValueError, TimeoutError) as error:
            self.close()
            reason = getattr(error, "strerror", None) or str(error) or "it does not answer"
            raise AdapterGone(reason) from error
        except asyncio.CancelledError:
            self.close()
            raise
        if "return" not in answer:
            self.close()
            raise AdapterGone(answer.get("error", {}).get("desc", "it hung up"))
        state: State = answer["return"]
        return state

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        streams = await asyncio.open_unix_connection(self._path, limit=_LONGEST_ANSWER)
        self._streams = streams
        await streams[0].readline()  # the greeting
        return streams

    def close(self) -> None:
        """Hang up."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


class StatusFeed:
    """One question at a time for any number of pages.

    A page hears of the difference to what it heard last, so that a slow one
    skips states and nothing piles up.
    """

    def __init__(self, control: Path, fixed: Mapping[str, object]) -> None:
        """``fixed`` is told too, and does not change."""
        self._door = ControlDoor(control)
        self._fixed = dict(fixed)
        self._state: State = {}
        self._changed = asyncio.Condition()
        self._pages = 0
        self._asking: asyncio.Task[None] | None = None

    async def follow(self) -> AsyncGenerator[str, None]:
        """JSON Merge Patches (RFC 7386), the first to be applied to nothing."""
        told: State = {}
        async with self._looking():
            while True:
                async with self._changed:
                    while not self._state or self._state == told:
                        await self._changed.wait()
                state = self._state
                yield json.dumps(merge_patch(told, state), separators=(",", ":"))
                told = state

    @contextlib.asynccontextmanager
    async def _looking(self) -> AsyncIterator[None]:
        self._pages += 1
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            yield
        finally:
            self._pages -= 1
            if not self._pages:
                self._asking.cancel()
                self._asking = None
                self._state = {}

    async def _ask(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                state = await self._look()
                took = clock() - began
                if state != self._state:
                    async with self._changed:
                        self._state = state
                        self._changed.notify_all()
                await asyncio.sleep(min(max(INTERVAL, took * _SHARE), LONGEST_PAUSE))
        finally:
            self._door.close()

    async def _look(self) -> State:
        try:
            answer = await self._door.ask("query-status", objects=_OBJECTS, runs=_RUNS)
        except AdapterGone as gone:
            return {**self._fixed, "gone": str(gone)}
        try:
            pinned = [item for item in answer.pop("save_areas") if item["lists"]]
            held = answer["objects"] + [{**item, "type": "SAVE AREA"} for item in pinned]
            # By their handles, so that a patch names only those that changed.
            answer["objects"] = {f"{item['handle']:#x}": item for item in held}
        except (LookupError, TypeError, ValueError):
            return {**self._fixed, "gone": "its answer is not understood: another version?"}
        plain: State = exact({**self._fixed, "adapter": answer})
        return plain


def exact(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same, with hexadecimal strings for integers that JavaScript would round."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, int) and abs(value) > _SAFE:
        return hex(value)
    return value


def merge_patch(old: State, new: State) -> State:
    """What turns ``old`` into ``new`` (RFC 7386); in both, None is the same as nothing."""
    patch: State = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and value != before:
            patch[key] = merge_patch(before, value)
        elif value != before:
            patch[key] = value
    return patch
