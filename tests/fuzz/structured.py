"""Messages that are almost right, made up from a seed: every one gets its answer.

    python -m tests.fuzz.structured 5000000

runs as many messages and says so; `make test` runs some.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from typing import get_args

from pyvfio_user import DmaPolicy
from pyvfio_user.wire import RULES

from .device import FuzzedDevice

MESSAGES = 8_000
# Values at which things break.
EDGES = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 20, 24, 32, 0xFF, 0x100, 0xFFF, 0x1000, 0x1001, 0xFFFF]
EDGES += [0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
LONG_EDGES = [1 << 32, 1 << 63, (1 << 64) - 0x1000, (1 << 64) - 1]
FEATURES = [1, 2, 6, 7, 8, 9]
FEATURE_METHODS = [1 << 16, 1 << 17, 1 << 18, 3 << 16, 5 << 16]


class Guest:
    """Makes up messages.  The seed is all there is to a run."""

    def __init__(self, seed: int, memory: int) -> None:
        self.chance = random.Random(seed)
        self.memory = memory

    def number(self, code: str) -> int:
        if code == "Q" and self.chance.random() < 0.2:
            return self.chance.choice(LONG_EDGES)
        value = self.chance.choice(EDGES)
        if code == "Q" and self.chance.random() < 0.5:
            value <<= 12
        return value & (0xFFFF if code == "H" else 0xFFFFFFFF if code == "I" else (1 << 64) - 1)

    def payload(self, command: int) -> bytes:
        rule = RULES.get(command)
        if rule is None or self.chance.random() < 0.05:
            return self.chance.randbytes(self.chance.choice(EDGES[:14]))
        codes = rule.fields.format[1:]
        values = [self.number(code) for code in codes]
        tail = self.chance.randbytes(self.chance.choice([0, 0, 0, 1, 4, 8, 24, 48]))
        if command == 16 and self.chance.random() < 0.9:
            values[1] = self.chance.choice(FEATURES) | self.chance.choice(FEATURE_METHODS)
            tail = b"".join(self.number(code).to_bytes(4, "little") for code in "II" * 3)
        if values and self.chance.random() < 0.8 and codes[0] == "I":
            values[0] = rule.fields.size + (len(tail) if command >= 16 else 0)  # argsz
        if command in (10, 18) and self.chance.random() < 0.8:
            values[-1] = len(tail)
        return struct.pack(f"={codes}", *values) + tail

    def message(self) -> tuple[bytes, list[int], bool]:
        """Return bytes, descriptors, and whether an answer is due."""
        command = self.chance.choice([*RULES, 0, 14, 19, 0xFFFF])
        payload = self.payload(command)
        flags = self.chance.choice([0] * 8 + [0x10, 1, 2, 0x21, 0xFFFFFFE0])
        header = struct.pack(
            "=HHIII", self.number("H"), command, 16 + len(payload), flags, self.number("I")
        )
        descriptors = []
        if self.chance.random() < 0.3:
            for _ in range(self.chance.choice([1, 1, 1, 2, 16])):
                is_memory = self.chance.random() < 0.5
                descriptors.append(os.dup(self.memory) if is_memory else os.eventfd(0))
        return header + payload, descriptors, flags & 0x1F != 0x10 and flags & 0xF != 1


def torment(policy: DmaPolicy, seed: int, messages: int = MESSAGES) -> None:
    """Send messages to a session.  Raises AssertionError for any answer that is not right."""
    before = len(os.listdir("/proc/self/fd"))
    with FuzzedDevice(policy) as fuzzed:
        guest = Guest(seed, fuzzed.guest_memory)
        answers = {True: 0, False: 0}
        for _ in range(messages):
            data, descriptors, is_due = guest.message()
            outgoing = fuzzed.feed(data, descriptors)
            assert len(outgoing) == is_due, data
            if is_due:
                reply, _ = outgoing[0]
                reply_id, command, size, flags, error = struct.unpack_from("=HHIII", reply)
                assert (reply_id, command) == struct.unpack_from("=HH", data)
                assert size == len(reply)
                assert flags in (1, 0x21)
                assert (flags == 0x21) == (error != 0)
                answers[error == 0] += 1
            assert not fuzzed.session.closing
    assert min(answers.values()) > messages // 20, "the mixture tests both sides"
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def main() -> None:
    """Run as many messages as the first argument says, from the seed in the second on."""
    wanted, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    done = 0
    while done < wanted:
        for policy in get_args(DmaPolicy):
            torment(policy, seed)
            done += MESSAGES
        seed += 1
        if seed % 20 == 0:
            print(f"{done} messages, next seed {seed}", flush=True)
    print(f"{done} messages, nothing found")


if __name__ == "__main__":
    main()
