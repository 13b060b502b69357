"""The device's own record of accesses that it was refused."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from vdxgk.channel import layout


class FaultReason(enum.IntEnum):
    """Why an access was refused; VDXGK_FAULT_*."""

    UNMAPPED = layout.FAULT_UNMAPPED
    FORBIDDEN = layout.FAULT_FORBIDDEN
    ADDRESS_WIDTH = layout.FAULT_ADDRESS_WIDTH
    BUS_MASTER_OFF = layout.FAULT_BUS_MASTER_OFF
    REFUSED = layout.FAULT_REFUSED
    INACCESSIBLE = layout.FAULT_INACCESSIBLE

    @property
    def sentence(self) -> str:
        """What a log line says of it."""
        return _SENTENCES[self]


_SENTENCES = {
    FaultReason.UNMAPPED: "nothing is mapped there",
    FaultReason.FORBIDDEN: "the mapping does not allow this access",
    FaultReason.ADDRESS_WIDTH: "beyond the device's address width",
    FaultReason.BUS_MASTER_OFF: "bus mastering is off",
    FaultReason.REFUSED: "the hypervisor refused the access",
    FaultReason.INACCESSIBLE: "mapped without a descriptor: use protocol messages",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One refused access: the first byte refused, and how many bytes were asked for.

    ``time`` is when it was refused, in seconds since 1970.
    """

    address: int
    size: int
    write: bool
    reason: FaultReason
    time: float = field(default_factory=time.time, compare=False)

    @property
    def info(self) -> int:
        """As VDXGK_REG_FAULT_INFO has it."""
        return layout.FAULT_VALID | (layout.FAULT_WRITE if self.write else 0) | self.reason


class AccessRefused(Exception):  # noqa: N818 - hardware calls it a fault
    """An access of the engine was refused."""

    def __init__(self, fault: Fault) -> None:
        kind = "write" if fault.write else "read"
        super().__init__(f"{kind} of {fault.address:#x}: {fault.reason.sentence}")
        self.fault = fault


class FaultRecord:
    """The registers' view (first fault since cleared, count) and a bounded history."""

    HISTORY = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        with self._lock:
            self.count = 0
            self.first: Fault | None = None
            self._history: deque[Fault] = deque(maxlen=self.HISTORY)

    def add(self, fault: Fault) -> None:
        """Record a fault; the register keeps the first until it is cleared."""
        with self._lock:
            self.count = min(self.count + 1, 0xFFFFFFFF)
            self._history.append(fault)
            if self.first is None:
                self.first = fault

    def clear(self) -> None:
        """Make room in the register for the next fault."""
        with self._lock:
            self.first = None

    def history(self) -> list[Fault]:
        """The last faults, oldest first."""
        with self._lock:
            return list(self._history)
