"""An adapter without threads, whose work is done when a test says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, MutableMapping
from unittest import mock

import structlog
from structlog.typing import FilteringBoundLogger

from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.display.pipe import PERIOD


class StillWorker:
    """In the place of the adapter's threads: works when it is told to, here."""

    def __init__(self, name: str, work: Callable[[], object], log: FilteringBoundLogger) -> None:
        self._work = work
        self._wanted = False

    def wake(self) -> None:
        self._wanted = True

    def run(self) -> None:
        while self._wanted:
            self._wanted = False
            self._work()


class Complaints:
    """A log processor that keeps what must never be said."""

    def __init__(self) -> None:
        self.internal: list[object] = []

    def __call__(
        self, logger: object, method: str, event: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        if event.get("exc_info") or event["event"] == "internal error":
            self.internal.append(dict(event))
        raise structlog.DropEvent


def still_adapter(options: AdapterOptions) -> tuple[Adapter, Complaints]:
    """The adapter, and what it said that it must never say."""
    complaints = Complaints()
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(), processors=[complaints]
    )
    with mock.patch("vdxgk.adapter.Worker", StillWorker):
        adapter = Adapter(options, log)
    # A vertical blank each time that somebody looks at the clock: no flip waits for one.
    adapter.pipe._clock = itertools.count(0, PERIOD).__next__
    return adapter, complaints


def work(adapter: Adapter) -> None:
    """What the adapter's threads would do now."""
    for worker in (adapter._channel_worker, adapter._engine_worker, adapter._scanout_worker):
        assert isinstance(worker, StillWorker)
        worker.run()
