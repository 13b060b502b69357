"""What a DMA_MAP and a DMA_UNMAP cost as mappings accumulate.

    python tests/bench/dma_map_curve.py

Three lines for each order of the pages: the table alone, the table behind a
session, and a served device that answers one message at a time.  Figures are
microseconds around 1,000 and around 60,000 mappings, the least of nine blocks
of 250, so that a busy machine shows less.
"""

from __future__ import annotations

import array
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable

from pyvfio_user import Access, Client, ConfigSpace, Device, Server, SharedMemory, wire
from pyvfio_user.session import Session
from pyvfio_user.version import Capabilities

PAGE = 0x1000
MAPPINGS = 62_000
BLOCK = 250
READ_WRITE = Access.READ | Access.WRITE
GREETING = wire.request(0, wire.Command.VERSION, b'\0\0\0\0{"capabilities":{}}\0')

Step = Callable[[int, int], None]  # a page number, and a descriptor that the step takes over


class Quiet:
    """A logger."""

    def info(self, event: str, **values: object) -> None:
        """Drop it."""

    warning = info
    error = info


def map_message(page: int) -> bytes:
    """DMA_MAP of a page."""
    payload = wire.DMA_MAP.pack(wire.DMA_MAP.size, 3, page * PAGE, page * PAGE, PAGE)
    return wire.request(1, wire.Command.DMA_MAP, payload)


def unmap_message(page: int) -> bytes:
    """DMA_UNMAP of a page."""
    payload = wire.DMA_UNMAP.pack(wire.DMA_UNMAP.size, 0, page * PAGE, PAGE)
    return wire.request(1, wire.Command.DMA_UNMAP, payload)


def curve(
    name: str, pages: list[int], memory: int, map_: Step, unmap: Callable[[int], None]
) -> None:
    """Map all pages, then unmap them; print both ends."""
    costs = []
    for start in range(0, len(pages), BLOCK):
        block = pages[start : start + BLOCK]
        copies = [os.dup(memory) for _ in block]
        began = time.perf_counter()
        for page, copy in zip(block, copies, strict=True):
            map_(page, copy)
        costs.append((time.perf_counter() - began) / BLOCK * 1e6)
    back = []
    for start in range(0, len(pages), BLOCK):
        began = time.perf_counter()
        for page in pages[start : start + BLOCK]:
            unmap(page)
        back.append((time.perf_counter() - began) / BLOCK * 1e6)
    few, many = (min(costs[at : at + 9]) for at in (0, 59_000 // BLOCK))
    print(f"{name:20} map {few:5.1f} -> {many:5.1f} us ({few / many:4.2f} of the rate)", end="  ")
    few, many = (min(back[::-1][at : at + 9]) for at in (0, 59_000 // BLOCK))
    print(f"unmap {few:5.1f} -> {many:5.1f} us ({few / many:4.2f})")


def table(name: str, pages: list[int], memory: int) -> None:
    """The table alone."""
    dma = Device(ConfigSpace(1, 2, 3), {}).dma
    curve(
        f"{name}, table",
        pages,
        memory,
        lambda page, copy: void(dma.map(page * PAGE, PAGE, READ_WRITE, copy, page * PAGE)),
        lambda page: void(dma.unmap(page * PAGE, PAGE)),
    )


def session(name: str, pages: list[int], memory: int) -> None:
    """The table behind the protocol, without a socket."""
    offer = Capabilities(16, 1 << 17, True)
    answering = Session(Device(ConfigSpace(1, 2, 3), {}), Quiet(), void, offer=offer)

    def feed(message: bytes, descriptors: list[int] | None = None) -> None:
        answering.connection.get_buffer()[: len(message)] = message
        answering.receive(len(message), descriptors)

    feed(GREETING)
    curve(
        f"{name}, session",
        pages,
        memory,
        lambda page, copy: feed(map_message(page), [copy]),
        lambda page: feed(unmap_message(page)),
    )
    answering.lost()


def served(name: str, pages: list[int], memory: int) -> None:
    """A server's whole way, one message at a time."""
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Device(ConfigSpace(1, 2, 3), {}), f"{directory}/socket", log=Quiet())
        server.open()
        thread = threading.Thread(target=server.serve)
        thread.start()
        with Client(server.path) as client:
            client.negotiate({})
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(server.path)
        connected.send(GREETING)
        connected.recv(4096)

        def send(message: bytes, copy: int = -1) -> None:
            rights = array.array("i", [copy])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if copy >= 0 else []
            connected.sendmsg([message], ancillary)
            if copy >= 0:
                os.close(copy)
            connected.recv(4096)

        curve(
            f"{name}, served",
            pages,
            memory,
            lambda page, copy: send(map_message(page), copy),
            lambda page: send(unmap_message(page)),
        )
        connected.close()
        server.stop()
        thread.join()


def void(_value: object) -> None:
    """Drop a value."""


def main() -> None:
    """Print the table."""
    ascending = list(range(MAPPINGS))
    mixed = ascending.copy()
    random.Random(1).shuffle(mixed)
    with SharedMemory(MAPPINGS * PAGE, "guest") as memory:
        for name, pages in (("ascending", ascending), ("mixed", mixed)):
            for measure in (table, session, served):
                measure(name, pages, memory.fd)


if __name__ == "__main__":
    main()
