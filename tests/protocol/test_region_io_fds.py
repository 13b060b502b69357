"""VFIO_USER_DEVICE_GET_REGION_IO_FDS: ioeventfds."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvfio_user import Bar, Client, ConfigSpace, Device, IoEventfd, RemoteProtocolError, Server

from .rig import Raw, open_descriptors

SUB_REGION = struct.Struct("=QQIIIIQ")


class Doorbells:
    """A device with three places and two eventfds, and its server."""

    def __init__(self, path: Path) -> None:
        self.first, self.second = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        places = [
            IoEventfd(0x10, 4, self.first),
            IoEventfd(0x20, 0, self.second),
            IoEventfd(0x28, 8, self.first, datamatch=0),
        ]
        device = Device(ConfigSpace(1, 2, 3), {0: Bar(0x1000, ioeventfds=places), 1: Bar(0x1000)})
        self.server = Server(device, str(path))
        self.server.open()
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()

    def close(self) -> None:
        self.server.stop()
        self.thread.join()
        os.close(self.first)
        os.close(self.second)


@pytest.fixture
def doorbells(tmp_path: Path) -> Iterator[Doorbells]:
    before = open_descriptors()
    doorbells = Doorbells(tmp_path / "s")
    yield doorbells
    doorbells.close()
    assert open_descriptors() == before


def test_the_client_gets_places_and_eventfds(doorbells: Doorbells) -> None:
    with Client(doorbells.server.path) as client:
        client.negotiate()
        places, eventfds = client.region_io_fds(0)
        first, second = eventfds
        assert places == [
            IoEventfd(0x10, 4, first),
            IoEventfd(0x20, 0, second),
            IoEventfd(0x28, 8, first, datamatch=0),
        ]
        os.eventfd_write(second, 3)
        assert os.eventfd_read(doorbells.second) == 3
        os.eventfd_write(first, 1)
        assert os.eventfd_read(doorbells.first) == 1
        for eventfd in eventfds:
            os.close(eventfd)


def test_on_the_wire(doorbells: Doorbells) -> None:
    """A short answer first: "argsz ... indicates the needed size"."""
    raw = Raw(doorbells.server.path)
    raw.negotiate()
    assert raw.ask(6, struct.pack("=IIII", 135, 0, 0, 0)) == (0, struct.pack("=IIII", 136, 0, 0, 3))
    assert raw.received == []
    error, payload = raw.ask(6, struct.pack("=IIII", 136, 0, 0, 0))
    assert (error, payload[:16]) == (0, struct.pack("=IIII", 136, 0, 0, 3))
    assert list(SUB_REGION.iter_unpack(payload[16:])) == [
        (0x10, 4, 0, 0, 0, 0, 0),
        (0x20, 0, 1, 0, 0, 0, 0),
        (0x28, 8, 0, 0, 1, 0, 0),
    ]
    assert len(raw.received) == 2
    raw.close()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ((16, 1, 0, 0), errno.EINVAL),
        ((16, 0, 0, 1), errno.EINVAL),
        ((15, 0, 0, 0), errno.EINVAL),
        ((16, 0, 9, 0), errno.EINVAL),
        ((16, 0, 0xFFFFFFFF, 0), errno.EINVAL),
        ((16, 0, 1, 0), errno.ENOTSUP),  # a BAR without
        ((16, 0, 2, 0), errno.ENOTSUP),  # no BAR
        ((16, 0, 7, 0), errno.ENOTSUP),
    ],
)
def test_refusals(doorbells: Doorbells, request_: tuple[int, int, int, int], expected: int) -> None:
    raw = Raw(doorbells.server.path)
    raw.negotiate()
    assert raw.ask(6, struct.pack("=IIII", *request_)) == (expected, b"")
    assert raw.ask(13)[0] == 0
    raw.close()


def test_a_client_that_takes_one_descriptor_is_not_sent_two(doorbells: Doorbells) -> None:
    with Client(doorbells.server.path) as client:
        client.negotiate({})  # max_msg_fds: 1
        with pytest.raises(RemoteProtocolError) as caught:
            client.region_io_fds(0)
        assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "declare",
    [
        lambda: IoEventfd(0, 3, 0),
        lambda: IoEventfd(-4, 4, 0),
        lambda: IoEventfd(0, 2, 0, datamatch=1 << 16),
        lambda: Bar(0x1000, ioeventfds=[IoEventfd(0xFFE, 4, 0)]),
        lambda: Bar(0x1000, ioeventfds=[IoEventfd(0x1000, 0, 0)]),
    ],
)
def test_nonsense_is_refused(declare: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"ioeventfd|datamatch"):
        declare()
