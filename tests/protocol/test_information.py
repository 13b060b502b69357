"""VFIO_USER_DEVICE_GET_INFO, _GET_REGION_INFO, _GET_IRQ_INFO, _GET_REGION_IO_FDS, _RESET."""

from __future__ import annotations

import errno
import mmap
import os
import struct

import pytest

from pyvfio_user import Client

from .rig import Asker, Raw, Rig

READ, WRITE, MMAP, CAPS = 1, 2, 4, 8


def region_info(ask: Asker, index: int, argsz: int = 32) -> tuple[tuple[int, ...], bytes]:
    error, payload = ask(5, struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0))
    assert error == 0
    return struct.unpack_from("=IIIIQQ", payload), payload[32:]


class TestDeviceInfo:
    def test_is_a_pci_device_that_can_be_reset(self, ask: Asker) -> None:
        error, payload = ask(4, struct.pack("=IIII", 16, 0, 0, 0))
        assert error == 0
        assert struct.unpack("=IIII", payload) == (16, 0b11, 9, 5)


class TestRegionInfo:
    @pytest.mark.parametrize(
        ("index", "flags", "size"),
        [
            (1, 0, 0),
            (2, READ | WRITE, 0x1000),
            (4, READ | WRITE, 0x1000),
            (5, READ | WRITE, 0x40000),
            (6, 0, 0),
            (7, READ | WRITE, 256),
            (8, 0, 0),
        ],
    )
    def test_of_a_region_without_memory(
        self, ask: Asker, index: int, flags: int, size: int
    ) -> None:
        fields, capabilities = region_info(ask, index)
        assert fields == (32, flags, index, 0, size, 0)
        assert capabilities == b""
        assert ask.received == []

    def test_of_memory_comes_with_its_descriptor(self, rig: Rig, ask: Asker) -> None:
        fields, _ = region_info(ask, 3)
        assert fields == (32, READ | WRITE | MMAP, 3, 0, 0x10000, 0)
        rig.memory.view[0x1234:0x1238] = b"ours"
        with mmap.mmap(ask.received[0], 0x10000) as mapped:
            assert mapped[0x1234:0x1238] == b"ours"
            mapped[0:6] = b"theirs"
        assert bytes(rig.memory.view[:6]) == b"theirs"

    def test_the_shared_file_cannot_be_resized(self, ask: Asker) -> None:
        region_info(ask, 3)
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(ask.received[0], size)

    def test_a_short_answer_names_the_size_needed(self, ask: Asker) -> None:
        """Message sizes: no capabilities, no CAPS flag, argsz larger than asked."""
        fields, capabilities = region_info(ask, 0)
        assert fields == (32 + 16 + 2 * 16, READ | WRITE | MMAP, 0, 0, 0x10000, 0)
        assert capabilities == b""

    def test_a_retry_gets_the_sparse_areas(self, ask: Asker) -> None:
        fields, capabilities = region_info(ask, 0, argsz=80)
        assert fields == (80, READ | WRITE | MMAP | CAPS, 0, 32, 0x10000, 0)
        assert struct.unpack("=HHIIIQQQQ", capabilities) == (
            *(1, 1, 0),
            *(2, 0),
            *(0x1000, 0x2000),
            *(0x8000, 0x1000),
        )

    def test_argsz_in_between_is_still_short(self, ask: Asker) -> None:
        fields, capabilities = region_info(ask, 0, argsz=79)
        assert (fields[0], fields[1] & CAPS, capabilities) == (80, 0, b"")

    @pytest.mark.parametrize("index", [9, 10, 0xFFFFFFFF])
    def test_of_no_region_is_refused(self, ask: Asker, index: int) -> None:
        request = struct.pack("=IIIIQQ", 32, 0, index, 0, 0, 0)
        assert ask(5, request) == (errno.EINVAL, b"")

    def test_descriptors_leave_with_their_own_reply(self, raw: Raw) -> None:
        request = struct.pack("=IIIIQQ", 32, 0, 3, 0, 0, 0)
        message = struct.pack("=HHIII", 1, 5, 48, 0, 0) + request
        reset = struct.pack("=HHIII", 2, 13, 16, 0, 0)
        raw.send(reset + message + reset + message)
        assert raw.reply()[:2] == (2, 13)
        assert raw.received == []
        assert raw.reply()[:2] == (1, 5)
        assert len(raw.received) == 1
        assert raw.reply()[:2] == (2, 13)
        assert len(raw.received) == 1
        assert raw.reply()[:2] == (1, 5)
        assert len(raw.received) == 2

    def test_our_client_reads_it_all(self, client: Client) -> None:
        info = client.region_info(0)
        assert (info.size, info.areas) == (0x10000, [(0x1000, 0x2000), (0x8000, 0x1000)])
        assert info.descriptor is not None
        os.close(info.descriptor)


class TestIrqInfo:
    @pytest.mark.parametrize(
        ("index", "flags", "count"), [(0, 0b111, 1), (1, 0, 0), (2, 0b11, 8), (3, 0, 0), (4, 0, 0)]
    )
    def test_of_each_type(self, ask: Asker, index: int, flags: int, count: int) -> None:
        error, payload = ask(7, struct.pack("=IIII", 16, 0, index, 0))
        assert error == 0
        assert struct.unpack("=IIII", payload) == (16, flags, index, count)

    def test_of_no_type_is_refused(self, ask: Asker) -> None:
        assert ask(7, struct.pack("=IIII", 16, 0, 5, 0))[0] == errno.EINVAL


class TestReset:
    def test_has_no_payload(self, rig: Rig, ask: Asker) -> None:
        assert ask(13) == (0, b"")
        assert rig.observer.events[-1] == ("reset",)

    def test_returns_the_configuration_space_to_its_start(self, rig: Rig, client: Client) -> None:
        before = client.region_read(7, 0, 256)
        client.region_write(7, 4, b"\x07\x04")
        client.region_write(7, 0x10, b"\xff" * 4)
        assert rig.device.config.bus_master_enabled
        client.reset()
        assert client.region_read(7, 0, 256) == before
        assert not rig.device.config.bus_master_enabled

    def test_of_a_device_that_fails_is_an_error_with_an_answer(self, rig: Rig, ask: Asker) -> None:
        rig.observer.failure = RuntimeError("broken model")
        assert ask(13)[0] == errno.EIO
        rig.observer.failure = None
        assert ask(13)[0] == 0
        assert isinstance(rig.log.named("handler_failed")[0]["exc_info"], RuntimeError)


class TestWhatIsNotThere:
    """Honest refusals, until they exist."""

    @pytest.mark.parametrize(
        ("command", "payload"),
        [
            pytest.param(6, struct.pack("=IIII", 16, 0, 0, 0), id="region-io-fds"),
            pytest.param(11, struct.pack("=QQ", 0, 8), id="dma-read-by-a-client"),
            pytest.param(12, struct.pack("=QQ", 0, 0), id="dma-write-by-a-client"),
        ],
    )
    def test_is_refused_with_enotsup(self, ask: Asker, command: int, payload: bytes) -> None:
        assert ask(command, payload) == (errno.ENOTSUP, b"")
        assert ask(13)[0] == 0
