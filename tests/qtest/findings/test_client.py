"""The vfio-user client."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import termios
import threading

import pytest

from pyvfio_user import (
    Bar,
    ConfigSpace,
    Device,
    MessageDmaError,
    Register,
    RegisterBlock,
    RemoteProtocolError,
    message_dma,
    version,
    wire,
)
from tests.qtest.findings.finding import LOGICAL, MESSAGES, OTHER, Defect, finding
from tests.qtest.lane import (
    ADAPTER_SLOT,
    BUFFER,
    WIDE,
    open_lane,
)
from tests.unit.vdxgk.raw_guest import serving
from vdxgk.channel import layout
from vdxgk_lab.errors import VmLost
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qmp import Refused
from vdxgk_lab.qtest.amdvi import AmdIommu
from vdxgk_lab.qtest.iommu import PAGE, Access
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import COMMAND_MEMORY, MmioWindow, PciFunction
from vdxgk_lab.run_directory import RunDirectory
from vdxgk_lab.served import served

REPLY = 1  # flags of a message's header
TRIES = 3
QUESTIONS = 100_000
"""How often something is asked before it counts as failed."""


@finding
def test_a_long_read_by_message_breaks_the_connection(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 512 << 10  # QEMU offers max_data_xfer_size 1 MiB
    monkeypatch.setattr(version, "MAX_DATA_XFER", 1 << 20)
    monkeypatch.setattr(message_dma, "CHUNK", 1 << 20)
    monkeypatch.setattr(message_dma, "ANSWER_LIMIT", 3.0)
    with open_lane("intel", qemu, vdxgk_run.path, mortal=True) as lane:
        content = lane.buffer(BUFFER, size, 1)
        short = 128 << 10
        assert lane.adapter.device.message_dma.read(BUFFER, short) == content[:short]
        try:
            assert lane.adapter.device.message_dma.read(BUFFER, size) == content
        except MessageDmaError as error:
            raise Defect(f"no answer: {error}") from error
        finally:
            lane.machine.kill()


@finding
def test_a_long_version_reply_is_refused(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = version.Capabilities.encode

    def padded(own: version.Capabilities, keys: frozenset[str]) -> bytes:
        # White space between JSON tokens means nothing.
        return encode(own, keys).replace(b"{", b"{" + b" " * 150)

    monkeypatch.setattr(version.Capabilities, "encode", padded)
    try:
        with open_lane("intel", qemu, vdxgk_run.path) as lane:
            assert lane.gpu.read(layout.REG_MAGIC) == layout.MAGIC
    except VmLost as lost:
        if "reply larger than recv buffer" not in str(lost):
            raise
        raise Defect(str(lost)) from lost


@finding
def test_a_reply_in_two_pieces_ends_the_connection(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    path = str(vdxgk_run.path / "s")
    next_request = b""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def answer_slowly() -> None:
            nonlocal next_request
            client, _ = listener.accept()
            with client:
                identity, command, *_ = wire.HEADER.unpack_from(client.recv(4096))
                payload = version.Capabilities().encode(frozenset())
                size = wire.HEADER.size + len(payload)
                reply = wire.HEADER.pack(identity, command, size, REPLY, 0) + payload
                half = wire.HEADER.size // 2
                client.sendall(reply[:half])
                while fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)) != bytes(4):
                    pass  # until QEMU has taken the first piece
                with contextlib.suppress(OSError):
                    client.sendall(reply[half:])
                    next_request = client.recv(4096)

        server = threading.Thread(target=answer_slowly)
        server.start()
        machine = QtestMachine(QtestConfig((vfio_user(path, ADAPTER_SLOT),)), qemu, vdxgk_run.path)
        with pytest.raises(VmLost), machine:
            pytest.fail("it started")
        server.join()
    if not next_request:
        assert "short read of header" in machine.words
        raise Defect(machine.words)


@finding
def test_a_late_reply_ends_the_connection(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    patience = 2000  # milliseconds for which QEMU waits; its start has to manage too
    value, nothing = 0x600D_F00D, 0xFFFF_FFFF
    in_time = threading.Event()
    in_time.set()

    def read() -> int:
        in_time.wait()
        return value

    block = RegisterBlock([Register(0, on_read=read)])
    device = Device(ConfigSpace(0x1234, 0x5678, 0xFF0000), {0: Bar(4096, handler=block)})
    with served(device, vdxgk_run.path / "s") as path:
        properties = vfio_user(str(path), ADAPTER_SLOT, **{"x-msg-timeout": patience})
        with QtestMachine(QtestConfig((properties,)), qemu, vdxgk_run.path) as machine:
            function = PciFunction(machine.qtest, ADAPTER_SLOT)
            register = function.place_bar(0, MmioWindow())
            function.command(COMMAND_MEMORY)
            assert machine.qtest.load(register, 4) == value
            in_time.clear()
            try:
                assert machine.qtest.load(register, 4) == nothing  # what is agreed, so far
            finally:
                in_time.set()
            for _ in range(TRIES):
                if machine.qtest.load(register, 4) == value:
                    return
            assert "unexpected reply" in machine.words
            raise Defect(machine.words)


@finding
def test_a_limit_on_mappings_is_not_kept(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, limit = version.Capabilities.encode, 1

    def limited(own: version.Capabilities, keys: frozenset[str]) -> bytes:
        return (
            encode(own, keys)
            .replace(b"{", b'{"max_dma_maps":%d,' % limit)
            .replace(b'{"max_dma_maps":%d,"cap' % limit, b'{"cap')
        )

    monkeypatch.setattr(version.Capabilities, "encode", limited)
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        if len(lane.mapped()) > limit:
            raise Defect(f"{len(lane.mapped())} mappings, of {limit} that the server takes")


@finding
def test_a_refused_mapping_is_forgotten(
    qemu: QemuBinary, vdxgk_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        lane.iommu.enable()
        content = lane.buffer(BUFFER, PAGE, 1)

        def full(*_: object) -> None:
            raise RemoteProtocolError(errno.ENOSPC, "too many mappings")

        monkeypatch.setattr(lane.adapter.device.dma, "map", full)
        lane.iommu.map(LOGICAL, BUFFER, PAGE)
        monkeypatch.undo()
        lane.assert_reads(LOGICAL, content, MESSAGES)
        assert lane.mapped() == []
        if lane.machine.alive and lane.iommu.faults() == []:
            raise Defect(f"the guest goes on: {lane.machine.words}")


@finding
def test_ranges_are_unmapped_that_were_never_mapped(
    qemu: QemuBinary, vdxgk_run: RunDirectory
) -> None:
    with open_lane("intel", qemu, vdxgk_run.path) as lane:
        statistics = lane.adapter.device.dma.statistics
        before = statistics.unmatched
        lane.iommu.enable()
        lane.iommu.disable()
        if statistics.unmatched > before:
            raise Defect(f"{statistics.unmatched - before} unmaps of nothing")


@finding
def test_amd_a_page_is_mapped_over_another(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with open_lane("amd", qemu, vdxgk_run.path) as lane:
        assert isinstance(lane.iommu, AmdIommu)
        lane.iommu.enable()
        lane.iommu.map(LOGICAL, BUFFER, PAGE)
        lane.iommu.table.set(LOGICAL, OTHER, PAGE, Access.BOTH, PAGE)
        lane.iommu.invalidate(LOGICAL, PAGE)
        content = lane.buffer(OTHER, PAGE, 1)
        lane.assert_reads(LOGICAL, content)
        if lane.adapter.device.dma.statistics.replaced:
            raise Defect("DMA_MAP of a range that is mapped")


@finding
def test_migration_is_not_blocked(qemu: QemuBinary, vdxgk_run: RunDirectory) -> None:
    with serving(vdxgk_run.path, WIDE) as (_, path):
        device = vfio_user(path, ADAPTER_SLOT)
        config = QtestConfig((device,), size=128 << 20)
        with QtestMachine(config, qemu, vdxgk_run.path) as machine:
            try:
                machine.qmp.execute("migrate", {"uri": f"file:{vdxgk_run.path / 'state'}"})
            except Refused:
                return
            for _ in range(QUESTIONS):
                status = machine.qmp.execute("query-migrate").get("status")
                if status == "completed":
                    raise Defect("the device's state is silently left behind")
                assert status != "failed"
            pytest.fail("the migration does not end")
