"""The expansion ROM: region 6, and the register that sizes it (PCI 3.0, 6.2.5.2)."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvfio_user import Client, ConfigSpace, Device, Server, SharedMemory

from .rig import Log, Raw

IMAGE = b"\x55\xaa" + bytes(range(256)) * 10
REGION_READ, REGION_WRITE = 9, 10
ROM, CONFIG = 6, 7
ROM_BAR = 0x30


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    device = Device(ConfigSpace(0x1234, 0x5678, 0x038000), {}, rom=IMAGE)
    server = Server(device, str(tmp_path / "rom.sock"), log=Log())
    server.open()
    thread = threading.Thread(target=server.serve)
    thread.start()
    raw = Raw(str(tmp_path / "rom.sock"))
    raw.negotiate()
    yield raw
    raw.close()
    server.stop()
    thread.join()


def read(raw: Raw, region: int, offset: int, count: int) -> bytes:
    error, payload = raw.ask(REGION_READ, struct.pack("=QII", offset, region, count))
    assert error == 0
    return payload[16:]


def write(raw: Raw, region: int, offset: int, data: bytes) -> int:
    return raw.ask(REGION_WRITE, struct.pack("=QII", offset, region, len(data)) + data)[0]


def test_the_region_is_read_only_and_a_power_of_two(raw: Raw) -> None:
    error, payload = raw.ask(5, struct.pack("=IIIIQQ", 32, 0, ROM, 0, 0, 0))
    _, flags, index, _, size, _ = struct.unpack("=IIIIQQ", payload)
    assert (error, flags, index, size) == (0, 1, ROM, 4096)


def test_the_image_is_padded_and_ignores_writes(raw: Raw) -> None:
    assert write(raw, ROM, 0, b"\x00\x00") == 0
    whole = read(raw, ROM, 0, 4096)
    assert whole == IMAGE + b"\xff" * (4096 - len(IMAGE))
    assert read(raw, ROM, 0x101, 3) == IMAGE[0x101:0x104]
    assert raw.ask(REGION_READ, struct.pack("=QII", 4095, ROM, 2))[0] == errno.EINVAL


def test_the_register_tells_the_size(raw: Raw) -> None:
    assert read(raw, CONFIG, ROM_BAR, 4) == bytes(4)
    write(raw, CONFIG, ROM_BAR, struct.pack("<I", 0xFFFFF800))
    assert read(raw, CONFIG, ROM_BAR, 4) == struct.pack("<I", 0xFFFFF000)
    write(raw, CONFIG, ROM_BAR, struct.pack("<I", 0xFEB00001))
    assert read(raw, CONFIG, ROM_BAR, 4) == struct.pack("<I", 0xFEB00001)


def test_without_a_rom_there_is_neither(tmp_path: Path) -> None:
    device = Device(ConfigSpace(0x1234, 0x5678, 0x038000), {})
    device.config.write(ROM_BAR, b"\xff" * 4)
    assert device.config.read(ROM_BAR, 4) == bytes(4)
    server = Server(device, str(tmp_path / "none.sock"), log=Log())
    server.open()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        with Client(str(tmp_path / "none.sock")) as client:
            client.negotiate()
            assert client.region_info(ROM).size == 0
    finally:
        server.stop()
        thread.join()


@pytest.mark.parametrize("size", [0, (128 << 10) + 1])
def test_images_that_no_client_could_read_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="expansion ROM"):
        Device(ConfigSpace(0x1234, 0x5678, 0x038000), {}, rom=bytes(size))


def test_cleared_memory_is_zero() -> None:
    with SharedMemory(0x4000, "test") as memory:
        memory.view[:] = b"\xaa" * 0x4000
        memory.clear()
        assert bytes(memory.view) == bytes(0x4000)
