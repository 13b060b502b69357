"""The vfio-user client."""

from __future__ import annotations

import pytest

from pyvfio_user import MessageDmaError, message_dma, version
from tests.qtest.findings.finding import Defect, finding
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
from vdxgk_lab.qtest.machine import QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.run_directory import RunDirectory

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
