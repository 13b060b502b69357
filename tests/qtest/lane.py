"""One machine of the lane: QEMU without an operating system, our adapter, an IOMMU.

The adapter runs in this process, so that a case can look into its DMA table.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import structlog
from structlog.testing import LogCapture

from tests.unit.vdxgk.raw_guest import serving
from vdxgk.adapter import Adapter, AdapterOptions
from vdxgk.channel import layout
from vdxgk.engine import word_sequence
from vdxgk_lab.qemu_binary import QemuBinary
from vdxgk_lab.qtest.amdvi import PAGE_FAULT, AmdIommu
from vdxgk_lab.qtest.bare_adapter import BareAdapter
from vdxgk_lab.qtest.client import QtestClient
from vdxgk_lab.qtest.iommu import PAGE, Frames, Iommu
from vdxgk_lab.qtest.machine import SHARED_MEMORY, Properties, QtestConfig, QtestMachine, vfio_user
from vdxgk_lab.qtest.pci import MmioWindow, PciFunction
from vdxgk_lab.qtest.virtio_iommu import REASON_MAPPING, VirtioIommu
from vdxgk_lab.qtest.vtd import REASON_READ, REASON_WRITE, IntelIommu

Kind = Literal["intel", "virtio", "amd"]
KINDS: tuple[Kind, ...] = get_args(Kind)

VIRTIO_SLOT = 4
ADAPTER_SLOT = 5
REQUESTER = ADAPTER_SLOT << 3
WIDE = AdapterOptions(dma_bits=64)


# virtio-iommu has no tables: its mappings are requests.
with_tables = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "virtio"])


PATHS = {"descriptors": 0, "messages": layout.ENGINE_MESSAGES}
"""The two ways of the engine to memory, by their flag."""

BUFFER = 64 << 20
"""Where cases begin to put buffers; tables lie below."""
CANARY = 0xA5


@dataclass(frozen=True)
class Platform:
    """How one IOMMU is made and driven, and what it says of a refused access."""

    device: Properties
    driver: Callable[[QtestClient, Frames, MmioWindow], Iommu]
    read_reason: int
    write_reason: int
    tells_access: bool = True
    """Whether its log names the address; see docs/qemu-findings.md."""


PLATFORMS: dict[Kind, Platform] = {
    "intel": Platform(
        {"driver": "intel-iommu", "intremap": "on", "caching-mode": True},
        lambda qtest, frames, window: IntelIommu(qtest, frames, REQUESTER),
        REASON_READ,
        REASON_WRITE,
    ),
    "virtio": Platform(
        {"driver": "virtio-iommu-pci", "addr": f"{VIRTIO_SLOT:02x}.0"},
        lambda qtest, frames, window: VirtioIommu(
            qtest, frames, REQUESTER, PciFunction(qtest, VIRTIO_SLOT), window, bypass=True
        ),
        REASON_MAPPING,
        REASON_MAPPING,
    ),
    "amd": Platform(
        {"driver": "amd-iommu", "intremap": "on", "dma-remap": True},
        lambda qtest, frames, window: AmdIommu(qtest, frames, REQUESTER),
        PAGE_FAULT,
        PAGE_FAULT,
        tells_access=False,
    ),
}


@dataclass
class Lane:
    """What a case works with."""

    kind: Kind
    machine: QtestMachine
    qtest: QtestClient
    frames: Frames
    window: MmioWindow
    adapter: Adapter
    gpu: BareAdapter
    log: Sequence[MutableMapping[str, Any]]
    iommu: Iommu
    canaries: list[tuple[int, int]] = field(default_factory=list)

    def restart(self) -> None:
        """Reset the machine; then new drivers begin."""
        self.machine.reset()
        self.window = MmioWindow()
        self.gpu.start(self.window)
        self.iommu = PLATFORMS[self.kind].driver(self.qtest, self.frames, self.window)

    # ---- memory ------------------------------------------------------------

    def buffer(self, physical: int, size: int, seed: int) -> bytes:
        """Fill guest RAM with words of which none repeats, between two pages of canaries."""
        content = pattern(seed, size)
        end = physical + (size + PAGE - 1) // PAGE * PAGE
        for page in (physical - PAGE, end):
            self.qtest.fill(page, PAGE, CANARY)
            self.canaries.append((page, PAGE))
        self.qtest.write(physical, content)
        return content

    def assert_canaries(self) -> None:
        for address, size in self.canaries:
            assert self.qtest.read(address, size) == bytes([CANARY]) * size, hex(address)

    # ---- DMA ---------------------------------------------------------------

    def dma_read(self, logical: int, size: int, flags: int = 0) -> layout.EngineCompletion:
        return self.gpu.engine(op=layout.ENGINE_CRC32, flags=flags, source=logical, size=size)

    def dma_write(
        self, logical: int, size: int, seed: int, flags: int = 0
    ) -> layout.EngineCompletion:
        return self.gpu.engine(
            op=layout.ENGINE_FILL,
            flags=flags,
            destination=logical,
            size=size,
            value=seed << 32,
            step=1,
        )

    def assert_reads(self, logical: int, content: bytes, flags: int = 0) -> None:
        completion = self.dma_read(logical, len(content), flags)
        assert (completion.status, completion.fault) == (0, 0)
        assert completion.done == len(content)
        assert completion.result == zlib.crc32(content)

    def assert_writes(self, logical: int, size: int, seed: int, flags: int = 0) -> None:
        completion = self.dma_write(logical, size, seed, flags)
        assert (completion.status, completion.fault, completion.done) == (0, 0, size)

    # ---- evidence of a refusal -----------------------------------------------

    def assert_refused(
        self, write: bool, address: int, reason: int, flags: int = 0, *, translated: bool = True
    ) -> None:
        """The device's register, history, event and log tell of one access, and so does the IOMMU.

        `translated`: the IOMMU saw it, which it does of messages only.
        Everything is cleared for the next refusal.
        """
        info = layout.FAULT_VALID | (layout.FAULT_WRITE if write else 0) | reason
        gpu = self.gpu
        assert gpu.read(layout.REG_FAULT_INFO) == info
        low, high = (
            gpu.read(layout.REG_FAULT_ADDRESS_LOW),
            gpu.read(layout.REG_FAULT_ADDRESS_HIGH),
        )
        assert high << 32 | low == address
        gpu.write(layout.REG_FAULT_INFO, layout.FAULT_VALID)
        last = self.adapter.faults.history()[-1]
        assert (last.address, last.write, last.reason) == (address, write, reason)
        event = gpu.event()
        assert (event.type, event.code, event.parameters[0]) == (layout.EVENT_FAULT, info, address)
        assert not gpu.has_event()
        line = self.log[-1]
        assert (line["event"], line["access"]) == ("fault", "write" if write else "read")
        assert line["address"] == f"{address:#x}"
        faults = self.iommu.faults()
        if not (flags and translated):
            assert faults == []
            return
        # QEMU looks a refused access up twice, and some IOMMUs log both.
        assert len(faults) in (1, 2)
        platform = PLATFORMS[self.kind]
        code = platform.write_reason if write else platform.read_reason
        for fault in faults:
            assert (fault.requester, fault.reason) == (REQUESTER, code)
            if platform.tells_access:
                assert fault.address // PAGE == address // PAGE
                assert fault.write in (write, None)

    def assert_write_refused(
        self, logical: int, flags: int = 0, *, reason: int = layout.FAULT_UNMAPPED, size: int = 8
    ) -> None:
        """A write of `size` bytes is refused as a whole, with all its evidence."""
        completion = self.dma_write(logical, size, 0xDEAD, flags)
        self._assert_refused_whole(completion, True, logical, flags, reason)

    def assert_read_refused(
        self, logical: int, flags: int = 0, *, reason: int = layout.FAULT_UNMAPPED, size: int = 8
    ) -> None:
        """A read of `size` bytes is refused as a whole, with all its evidence."""
        completion = self.dma_read(logical, size, flags)
        self._assert_refused_whole(completion, False, logical, flags, reason)

    def _assert_refused_whole(
        self,
        completion: layout.EngineCompletion,
        write: bool,
        logical: int,
        flags: int,
        reason: int,
    ) -> None:
        # What a message was refused for, only the hypervisor knows.
        reason = layout.FAULT_REFUSED if flags else reason
        assert completion.status != 0
        assert (completion.fault_address, completion.done) == (logical, 0)
        assert completion.fault & layout.FAULT_REASON_MASK == reason
        self.assert_refused(write, logical, reason, flags)
        if flags:
            return
        mapping = self.adapter.device.dma.find(logical)
        assert (mapping is None) == (reason == layout.FAULT_UNMAPPED)

    def mapped(self) -> list[tuple[int, int, int]]:
        """The device's view: logical address, size, access of every mapping."""
        return [(m.iova, m.size, int(m.access)) for m in self.adapter.device.dma.mappings()]


def pattern(seed: int, size: int) -> bytes:
    """Words of which none repeats, in one buffer or in two with different seeds."""
    return word_sequence(seed << 32, 1, 0, size)


@contextmanager
def captured_log() -> Iterator[Sequence[MutableMapping[str, Any]]]:
    capture = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    try:
        yield capture.entries
    finally:
        structlog.configure(**before)


@contextmanager
def open_lane(
    kind: Kind,
    qemu: QemuBinary,
    directory: Path,
    *,
    options: AdapterOptions = WIDE,
    memory: Properties = SHARED_MEMORY,
    iommu: Mapping[str, object] | None = None,
    devices: Sequence[Properties] = (),
    mortal: bool = False,
) -> Iterator[Lane]:
    """An adapter in a machine of its own, behind an IOMMU that does not translate yet.

    `iommu` changes properties of the IOMMU's device; `devices` stand behind it
    too.  At the end the machine must live and its canaries be whole, unless it
    is `mortal`.
    """
    device = {**PLATFORMS[kind].device, **(iommu or {})}
    with captured_log() as log, serving(directory, options) as (adapter, path):
        config = QtestConfig((device, vfio_user(path, ADAPTER_SLOT), *devices), memory)
        with plug_in(kind, config, qemu, directory, adapter, log) as lane:
            yield lane
            if not mortal:
                lane.assert_canaries()
                assert lane.machine.alive


@contextmanager
def plug_in(
    kind: Kind,
    config: QtestConfig,
    qemu: QemuBinary,
    directory: Path,
    adapter: Adapter,
    log: Sequence[MutableMapping[str, Any]],
) -> Iterator[Lane]:
    """A machine around an adapter that is served already."""
    with QtestMachine(config, qemu, directory) as machine:
        qtest = machine.qtest
        frames, window = Frames(qtest), MmioWindow()
        gpu = BareAdapter(qtest, PciFunction(qtest, ADAPTER_SLOT))
        gpu.start(window)
        driver = PLATFORMS[kind].driver(qtest, frames, window)
        yield Lane(kind, machine, qtest, frames, window, adapter, gpu, log, driver)
