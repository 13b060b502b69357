"""A guest without an operating system, and an adapter for it in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvfio_user import Server
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.conformance.worlds.raw_guest import LIMIT, RAM, RawGuest

__all__ = ["LIMIT", "RAM", "RawGuest", "serving"]


@contextmanager
def serving(directory: Path, options: AdapterOptions) -> Iterator[tuple[Adapter, str]]:
    """An adapter behind a socket, in this process."""
    adapter = Adapter(options)
    path = str(directory / "s")
    server = Server(adapter.device, path)
    server.open()
    adapter.start()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield adapter, path
    finally:
        server.stop()
        thread.join(LIMIT)
        adapter.stop()
        assert not thread.is_alive()
        # One process serves hundreds of adapters here: their files must not pile up.
        adapter.backend.ram.release()
        for bar in adapter.device.bars.values():
            if bar.memory is not None:
                bar.memory.close()
