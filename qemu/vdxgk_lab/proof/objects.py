"""One object's proof: both sides write, both sides read, every byte by checksum."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from vdxgk.engine import word_sequence
from vdxgk_lab.proof.cases import LARGE_PAGE, PAGE, ObjectCase
from vdxgk_lab.proof.evidence import ObjectEvidence
from vdxgk_lab.proof.stub import AdlReply, CreateReply, Stub, StubRefused

Announced = Callable[[int], int]
"""How many DMA_MAP messages a list (by its logical base) cost QEMU, as the device counted."""

GUEST_STEP = 0x9E3779B97F4A7C15
DEVICE_STEP = 0xD1B54A32D192ED03
"""Odd, so that no word of a sequence of 64-bit words repeats: a page in the wrong place shows."""


@dataclass(slots=True)
class Made:
    """An object that lives, with its list, and what it should hold."""

    case: ObjectCase
    evidence: ObjectEvidence
    created: CreateReply | None = None
    adapter_object: int = 0
    adl: AdlReply | None = None
    value: int = 0
    step: int = 0
    crc: int = 0

    @property
    def object(self) -> int:
        """The object's handle; 0 if it could not be made."""
        return self.created.object if self.created else 0

    @property
    def logical(self) -> int:
        """The list's first address; 0 if it could not be made."""
        return self.adl.logical if self.adl else 0

    def expect(self, value: int, step: int) -> int:
        """From now on it should hold this word sequence; returns the CRC32."""
        self.value, self.step = value, step
        self.crc = zlib.crc32(word_sequence(value, step, 0, self.case.size))
        return self.crc


def exercise(stub: Stub, announced: Announced, case: ObjectCase, number: int) -> Made:
    """Make an object and its list, and move data both ways.

    What fails is in the evidence. `number` (0 to 255) makes the data differ
    from that of every other object.
    """
    evidence = ObjectEvidence(case.name, case.type.upper(), case.size)
    made = Made(case, evidence)
    began = time.monotonic()
    try:
        _make(stub, announced, made)
        _guest_to_device(stub, made, number << 56)
        _device_to_guest(stub, made, number << 56 | 0x5555)
    except StubRefused as refusal:
        evidence.checklist.expect("every call succeeds", False, refusal)
    evidence.seconds = time.monotonic() - began
    return made


def _make(stub: Stub, announced: Announced, made: Made) -> None:
    case, evidence = made.case, made.evidence
    made.created = created = stub.create(case)
    made.adapter_object = created.adapter_object
    if case.late_open:
        evidence.checklist.equal("no adapter object before Open", created.adapter_object, 0)
        made.adapter_object = stub.open(created.object)
    evidence.runs = [list(run) for run in created.runs]
    evidence.run_count = created.run_count
    _check_memory(case, created, evidence)
    made.adl = stub.allocate_adl(made.adapter_object, case.capacity, prefer_contiguous=True)
    evidence.logical = made.logical
    evidence.mappings = announced(made.logical)
    _check_list(case, created, made.adl, evidence)


def _check_memory(case: ObjectCase, created: CreateReply, evidence: ObjectEvidence) -> None:
    check = evidence.checklist
    low, high = case.low or 0, case.high if case.high is not None else (1 << 64) - 1
    outside = [run for run in created.runs if run[0] < low or run[0] + run[1] - 1 > high]
    check.expect("within the address bounds", not outside, [hex(run[0]) for run in outside])
    if created.run_count == len(created.runs):
        check.equal("memory for all of it", sum(size for _, size in created.runs), case.capacity)
    if case.type == "contiguous":
        check.equal("one run", created.run_count, 1)
    if case.boundary:
        base, size = created.runs[0]
        check.equal(
            "crosses no boundary", (base + size - 1) // case.boundary, base // case.boundary
        )
    if case.skip:
        apart = [run for run in created.runs if run[0] % case.skip]
        check.expect("chunks aligned to their size", not apart, apart)
    if case.scattered:
        pages = case.capacity // PAGE
        check.expect("scattered", created.run_count > pages // 2, f"{created.run_count} runs")


def _check_list(
    case: ObjectCase, created: CreateReply, adl: AdlReply, evidence: ObjectEvidence
) -> None:
    check = evidence.checklist
    check.equal("pages in the list", adl.page_count, case.capacity // PAGE)
    check.expect("contiguous, as preferred", adl.contiguous)
    equal = []
    position = adl.logical
    for base, size in created.runs:
        if base == position:
            equal.append(hex(base))
        position += size
    check.expect("no logical address equals its guest-physical address", not equal, equal)
    check.expect("QEMU announced mappings", evidence.mappings > 0)
    if case.max_mappings is not None:
        check.expect(
            f"at most {case.max_mappings} mappings",
            evidence.mappings <= case.max_mappings,
            evidence.mappings,
        )
    if case.capacity < LARGE_PAGE and case.scattered:
        check.equal("a mapping for each page", evidence.mappings, case.capacity // PAGE)


def _guest_to_device(stub: Stub, made: Made, value: int) -> None:
    """The guest writes through its CPU mapping, the device reads through the IOMMU."""
    check, size = made.evidence.checklist, made.case.size
    expected = made.expect(value, GUEST_STEP)
    written = stub.write(made.object, size, value, GUEST_STEP)
    check.equal("the guest wrote what was meant", written, expected)
    read = stub.device_crc32(made.logical, size)
    if check.equal("the device reads what the guest wrote", read, expected):
        made.evidence.bytes_read = size


def _device_to_guest(stub: Stub, made: Made, value: int) -> None:
    """The device writes through the IOMMU, the guest reads through its CPU mapping."""
    check, size = made.evidence.checklist, made.case.size
    made.expect(value, DEVICE_STEP)
    filled = stub.device_fill(made.logical, size, value, DEVICE_STEP)
    check.expect("the device writes without a fault", filled)
    problem = read_back(stub, made)
    if check.expect("the guest reads what the device wrote", problem is None, problem):
        made.evidence.bytes_written = size


def read_back(stub: Stub, made: Made) -> str | None:
    """What is wrong with the object's content, seen by the guest; None: nothing."""
    found = stub.read(made.object, made.case.size, made.value, made.step)
    if found.mismatch is not None:
        return f"first difference at offset {found.mismatch:#x}"
    if found.crc32 != made.crc:
        return f"CRC32 {found.crc32:#010x}, expected {made.crc:#010x}"
    return None


def tear_down(stub: Stub, made: Made) -> None:
    """Free the list and destroy the object; what fails is noted in the evidence."""
    try:
        if made.adl:
            stub.free_adl(made.adl.id)
        if made.created:
            stub.destroy(made.object, made.adapter_object)
    except StubRefused as refusal:
        made.evidence.checklist.expect("freed and destroyed", False, refusal)
