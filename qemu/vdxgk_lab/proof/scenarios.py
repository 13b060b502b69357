"""What must be refused, diagnosed, or stay untouched."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from vdxgk_lab.guest import Guest
from vdxgk_lab.proof.cases import PAGE, ObjectCase
from vdxgk_lab.proof.evidence import Checklist, ScenarioEvidence, grouped
from vdxgk_lab.proof.objects import GUEST_STEP, Made, exercise, read_back, tear_down
from vdxgk_lab.proof.stub import DmaReply, Stub

DeviceStatus = Callable[[], dict[str, Any]]
MODULE = "/lib/modules/vdxgk.ko"
NODE = "/dev/vdxgk0"

# By messages only a word is asked for: QEMU reports each word, and the IOMMU
# drivers log but a few reports in a row.
_WORD = 8
# How many faults Linux logs at least: a limit of ten lines in five seconds (DEFAULT_RATELIMIT_*
# of linux/ratelimit_types.h), of which the one for Intel's IOMMU counts three for each fault.
_LOGGED = 3
_LOGGED_SECONDS = 5.5  # half a second more: the log has a clock of its own
UNMAPPED = 1
REFUSED_BY_HYPERVISOR = 5


def load_stub(guest: Guest, mode: str) -> bool:
    """Load the stub's module; returns whether its adapter started."""
    guest.run(["insmod", MODULE, f"mode={mode}"], timeout=60)
    return guest.run(["test", "-c", NODE]).ok


def unload_stub(guest: Guest) -> bool:
    """Unload the stub's module; returns whether it went."""
    return guest.run(["rmmod", "vdxgk"], timeout=60).ok


def kernel_log(guest: Guest) -> str:
    """The guest's kernel log."""
    return guest.run(["dmesg"]).check().stdout


def default_domain(guest: Guest) -> str:
    """What the kernel gives the adapter's drivers by itself: DMA, identity, or none."""
    shown = guest.run(["cat", "/sys/bus/pci/devices/0000:00:05.0/iommu_group/type"])
    return shown.stdout.strip() if shown.ok else "none"


def physical_mode_is_refused(guest: Guest) -> ScenarioEvidence:
    """Memory above the GPU's reach, no remapping: WDDM does not start the adapter."""
    evidence = ScenarioEvidence("physical mode")
    check = evidence.checklist
    check.expect("the adapter does not start", not load_stub(guest, "physical"))
    log = kernel_log(guest)
    check.expect("the kernel log says why", "0xc00000bb" in log.lower(), log[-400:])
    check.expect("the guest lives", guest.run(["true"]).ok)
    check.expect("the module unloads", unload_stub(guest))
    evidence.outcome = "refused: memory above the GPU's reach, as WDDM requires"
    return evidence


def logical_mode_starts(guest: Guest, stub: Stub) -> ScenarioEvidence:
    """The same machine, with remapping."""
    evidence = ScenarioEvidence("logical mode")
    check = evidence.checklist
    if not check.expect("the adapter starts", load_stub(guest, "logical")):
        check.expect("the kernel log", False, kernel_log(guest)[-1500:])
        return evidence
    status = stub.status()
    check.equal("mode", status.mode, "logical")
    check.expect(
        "guest memory lies above the GPU's reach",
        status.highest_ram > status.highest_visible,
        f"{status.highest_ram:#x} against {status.highest_visible:#x}",
    )
    span = status.logical_end + 1 - status.logical_start
    evidence.outcome = f"started: {span / (1 << 30):.1f} GiB of logical addresses"
    return evidence


def messages_reach_remapped_memory(stub: Stub, announced: Callable[[int], int]) -> ScenarioEvidence:
    """The other path: protocol messages, which QEMU's IOMMU translates."""
    evidence = ScenarioEvidence("DMA by messages")
    made = exercise(stub, announced, ObjectCase("MDL", "mdl", 256 << 10), 0xE0)
    size = made.case.size
    check = evidence.checklist
    check.expect("descriptors work", made.evidence.ok, made.evidence.checklist.failures)
    read = stub.device_crc32(made.logical, size, messages=True)
    check.equal("QEMU's IOMMU leads to the same bytes", read, made.crc)
    made.expect(7, GUEST_STEP)
    filled = stub.device_fill(made.logical, size, 7, GUEST_STEP, messages=True)
    check.expect("messages write without a fault", filled)
    problem = read_back(stub, made)
    check.expect("the guest reads what messages wrote", problem is None, problem)
    tear_down(stub, made)
    evidence.outcome = f"{size >> 10} KiB each way, translated by QEMU's IOMMU"
    return evidence


def nothing_granted_is_refused(
    guest: Guest, stub: Stub, device: DeviceStatus, made: Made, *, iommu_logs: bool = True
) -> ScenarioEvidence:
    """The device reads just behind a list, where nothing was ever granted.

    `iommu_logs`: the guest's IOMMU driver must log what came by messages.
    """
    address = made.logical + made.case.capacity
    evidence = ScenarioEvidence(f"read  {grouped(address)}")
    evidence.outcome = f"nothing mapped: {_seen_by(iommu_logs)}"
    refused = _Refusal(guest, stub, device, evidence.checklist, address, iommu_logs)
    refused.try_(
        lambda messages: stub.dma(
            "crc32", source=address, size=_WORD if messages else PAGE, messages=messages
        ),
        write=False,
    )
    return evidence


def a_freed_list_is_refused(
    guest: Guest,
    stub: Stub,
    device: DeviceStatus,
    announced: Callable[[int], int],
    *,
    iommu_logs: bool = True,
) -> ScenarioEvidence:
    """The device writes to a list that was just freed; its object still exists.

    `iommu_logs`: as above.
    """
    made = exercise(stub, announced, ObjectCase("MDL", "mdl", 64 << 10), 0xF0)
    address = made.logical
    evidence = ScenarioEvidence(f"write {grouped(address)}")
    evidence.outcome = f"freed list: {_seen_by(iommu_logs)}, nothing changed"
    check = evidence.checklist
    check.expect("the list worked before", made.evidence.ok, made.evidence.checklist.failures)
    if made.adl:
        stub.free_adl(made.adl.id)
        made.adl = None
    refused = _Refusal(guest, stub, device, check, address, iommu_logs)
    refused.try_(
        lambda messages: stub.dma(
            "fill", destination=address, size=_WORD if messages else PAGE, messages=messages
        ),
        write=True,
    )
    problem = read_back(stub, made)
    check.expect("nothing changed", problem is None, problem)
    tear_down(stub, made)
    return evidence


def _seen_by(iommu_logs: bool) -> str:
    return "GPU fault, event" + (", guest's IOMMU log" if iommu_logs else "")


class _Refusal:
    """An access that must fault, on both paths, and be seen by everybody."""

    def __init__(
        self,
        guest: Guest,
        stub: Stub,
        device: DeviceStatus,
        check: Checklist,
        address: int,
        iommu_logs: bool,
    ) -> None:
        self._guest = guest
        self._stub = stub
        self._device = device
        self._check = check
        self._address = address
        self._iommu_logs = iommu_logs

    def try_(self, access: Callable[[bool], DmaReply], *, write: bool) -> None:
        kind = "write" if write else "read"
        for messages, reason in ((False, UNMAPPED), (True, REFUSED_BY_HYPERVISOR)):
            path = "messages" if messages else "descriptors"
            if messages and self._iommu_logs:
                self._wait_for_the_log()
            log_before = len(kernel_log(self._guest))
            reply = access(messages)
            self._check.expect(f"{path}: the engine reports a fault", reply.faulted, reply)
            self._check.equal(f"{path}: at the address", reply.fault_address, self._address)
            self._check.equal(f"{path}: for the reason", reply.fault_reason, reason)
            self._check.equal(f"{path}: nothing was transferred", reply.done, 0)
            faults = [event for event in self._stub.events() if event["type"] == "fault"]
            last = faults[-1] if faults else None
            self._check.expect(
                f"{path}: the guest got an event",
                last is not None and int(last["address"], 16) == self._address,
                last,
            )
            recorded = self._device()["faults"]["last"]
            self._check.expect(
                f"{path}: the device recorded it",
                bool(recorded)
                and recorded[-1]["address"] == self._address
                and recorded[-1]["access"] == kind,
                recorded[-1:],
            )
            if messages and self._iommu_logs:
                self._iommu_logged(kernel_log(self._guest)[log_before:])
        self._check.expect("the guest lives", self._guest.run(["true"]).ok)

    def _wait_for_the_log(self) -> None:
        """A guest that is quick would not log one fault more."""
        uptime = self._guest.run(["cat", "/proc/uptime"]).check().stdout
        time.sleep(log_pause(kernel_log(self._guest), float(uptime.split()[0])))

    def _iommu_logged(self, log: str) -> None:
        """On the message path the guest's IOMMU driver sees the fault as well."""
        self._check.expect(
            "messages: the guest's IOMMU logged it", iommu_line(log, self._address), log[-600:]
        )


def log_pause(log: str, now: float) -> float:
    """Seconds until one fault more is logged; `now` in the log's seconds."""
    stamps = re.findall(r"(?m)^\[ *([\d.]+)\].*(?:fault addr|page fault|IO_PAGE_FAULT)", log)
    times = [float(stamp) for stamp in stamps]
    return max(0.0, times[-_LOGGED] + _LOGGED_SECONDS - now) if len(times) >= _LOGGED else 0.0


def iommu_line(log: str, address: int) -> bool:
    """Whether a kernel log holds an IOMMU driver's line on a fault at an address.

    QEMU 11.1's amd-iommu reports each fault as one at address 0, so that of
    AMD's line only its kind can be asked for.
    """
    where = f"0x0*{address:x}\\b"
    lines = (
        f"DMAR: .*fault addr {where}",
        f"virtio_iommu .*page fault .* at {where}",
        r"AMD-Vi: Event logged \[IO_PAGE_FAULT ",
    )
    return any(re.search(line, log) for line in lines)


def contents_survived(stub: Stub, made: Sequence[Made]) -> ScenarioEvidence:
    """After all the traffic, each object still holds what the device wrote to it."""
    evidence = ScenarioEvidence("contents")
    total = 0
    for item in made:
        if not item.created:
            continue
        problem = read_back(stub, item)
        evidence.checklist.expect(f"{item.case.name} {item.case.size}", problem is None, problem)
        total += item.case.size
    evidence.outcome = f"{total >> 20} MiB in {len(made)} objects still as the device wrote them"
    return evidence


def canaries_are_untouched(stub: Stub) -> ScenarioEvidence:
    """Donated pages that no object owns lie between those that objects do."""
    evidence = ScenarioEvidence("canaries")
    canary = stub.canary()
    evidence.checklist.expect("there are canary pages", canary.checked > 0)
    evidence.checklist.equal("damaged pages", canary.damaged, 0)
    evidence.outcome = f"{canary.checked} donated pages around the objects untouched"
    return evidence


def nothing_is_left(guest: Guest, device: DeviceStatus) -> ScenarioEvidence:
    """After the driver is gone, neither side holds anything."""
    evidence = ScenarioEvidence("unload")
    check = evidence.checklist
    state = device()
    check.equal("objects left before", len(state["objects"]), 0)
    check.expect("the module unloads", unload_stub(guest))
    state = device()
    check.equal("bytes of donated memory kept", state["donated_bytes"], 0)
    log = kernel_log(guest)
    bad = re.findall(r"(?m)^.*(?:BUG|WARNING|Oops|Call Trace).*$", log)
    check.expect("the kernel log is clean", not bad, bad[:3])
    evidence.outcome = "all memory returned, nothing mapped, kernel log clean"
    return evidence
