"""The line that an IOMMU driver logs, and others that name the same address."""

import pytest

from vdxgk_lab.proof.scenarios import iommu_line, log_pause

STUB = "[ 7.1] vdxgk 0000:00:05.0: GPU fault: read of 8 bytes at 0x4011000 refused, reason 5"
INTEL = "[ 7.0] DMAR: [DMA Read NO_PASID] Request device [00:05.0] fault addr 0x4011000 [fault 6]"
VIRTIO = "[ 7.0] virtio_iommu virtio0: page fault from EP 40 at 0x4011000 []"
AMD = "[ 7.0] vdxgk 0000:00:05.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0x0]"


@pytest.mark.parametrize("line", [INTEL, VIRTIO, AMD])
def test_each_drivers_line_counts(line: str) -> None:
    assert iommu_line(f"{STUB}\n{line}\n", 0x4011000)


@pytest.mark.parametrize("line", [INTEL, VIRTIO])
def test_another_address_does_not(line: str) -> None:
    assert not iommu_line(line, 0x4011008)
    assert not iommu_line(line, 0x401100)


def test_the_stubs_own_line_does_not() -> None:
    assert not iommu_line(STUB, 0x4011000)


@pytest.mark.parametrize("line", [INTEL, VIRTIO, AMD])
def test_more_faults_than_linux_logs_are_waited_with(line: str) -> None:
    log = "\n".join(line.replace(" 7.0", stamp) for stamp in (" 7.25", " 9.0", "  10.0"))
    assert log_pause(log, 11.0) == 7.25 + 5.5 - 11.0
    assert log_pause(f"{log}\n{STUB}", 11.0) == 7.25 + 5.5 - 11.0
    assert log_pause(log, 20.0) == 0
    assert log_pause("\n".join(log.splitlines()[1:]), 11.0) == 0
