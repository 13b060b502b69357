"""Messages that are almost right, to a served device, cut and joined at random.

    python -m tests.fuzz.over_socket 100000

Every client ends in the middle of a message; the next one is served.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import tempfile
import threading
from typing import get_args

from pyvfio_user import DmaPolicy, Server
from tests.protocol.rig import Raw

from .device import GREETING, FuzzedDevice
from .structured import Guest

GROUP = 16  # messages before their answers are read: neither side's queue fills
CLIENT = 500  # messages of one client


def converse(raw: Raw, guest: Guest, messages: int) -> None:
    """Send messages in groups; every one that is due an answer gets it, in order."""
    raw.send(GREETING)
    assert raw.reply()[3] == 0
    done = 0
    while done < messages:
        due = []
        waiting = b""  # to be sent with what follows
        for _ in range(guest.chance.randrange(1, GROUP)):
            data, descriptors, is_due = guest.message()
            done += 1
            if is_due:
                due.append(struct.unpack_from("=HH", data))
            if descriptors and waiting:  # they belong to the message that a send ends with
                raw.send(waiting)
                waiting = b""
            start = guest.chance.randrange(1, len(data) + 1)
            if descriptors:
                raw.send(data[:start], tuple(descriptors))
                data = data[start:]
                for descriptor in descriptors:
                    os.close(descriptor)
            waiting += data
            if guest.chance.random() < 0.5:
                cut = guest.chance.randrange(len(waiting) + 1)
                if cut:
                    raw.send(waiting[:cut])
                waiting = waiting[cut:]
        if waiting:
            raw.send(waiting)
        assert [raw.reply()[:2] for _ in due] == due
        while raw.received:
            os.close(raw.received.pop())
    data, descriptors, _ = guest.message()
    raw.send(data[:-1], tuple(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)


def torment(policy: DmaPolicy, seed: int, messages: int) -> None:
    """Serve a device for clients that send so many messages in all.  Raises AssertionError."""
    before = len(os.listdir("/proc/self/fd"))
    fuzzed = FuzzedDevice(policy)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        server = Server(fuzzed.device, path, log=fuzzed.log, write_multiple=True)
        server.open()
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            for start in range(0, messages, CLIENT):
                raw = Raw(path)
                guest = Guest(random.Random(f"{seed} {start}").getrandbits(32), fuzzed.guest_memory)
                try:
                    converse(raw, guest, min(CLIENT, messages - start))
                finally:
                    raw.close()
        finally:
            server.stop()
            thread.join()
            fuzzed.close(check=sys.exc_info()[0] is None)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor leaked"


def main() -> None:
    """Send as many messages as the argument says."""
    wanted, done, seed = int(sys.argv[1]), 0, 1
    while done < wanted:
        for policy in get_args(DmaPolicy):
            torment(policy, seed, 10_000)
            done += 10_000
        seed += 1
        print(f"{done} messages, nothing found", flush=True)


if __name__ == "__main__":
    main()
