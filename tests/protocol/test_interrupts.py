"""VFIO_USER_DEVICE_SET_IRQS: data, actions, types."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Iterator

import pytest

from pyvfio_user import Client, IrqType, LocalProtocolError, wire
from tests.waiting import readable

from .rig import Asker, Raw, Rig

NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32
INTX, MSI, MSIX, ERR, REQ = range(5)


def payload(flags: int, index: int, start: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("=IIIII", 20 + len(data), flags, index, start, count) + data


class Eventfds:
    def __init__(self, count: int) -> None:
        self.fds = tuple(os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count))

    def fired(self) -> list[int]:
        """Return how often each was signalled since the last look."""
        found = []
        for fd in self.fds:
            try:
                found.append(os.eventfd_read(fd))
            except BlockingIOError:
                found.append(0)
        return found


@pytest.fixture
def events() -> Iterator[Eventfds]:
    events = Eventfds(8)
    yield events
    for fd in events.fds:
        os.close(fd)


@pytest.fixture
def msix(ask: Asker, events: Eventfds) -> Asker:
    assert ask(8, payload(EVENTFD | TRIGGER, MSIX, 0, 8), events.fds) == (0, b"")
    return ask


class TestEventfd:
    def test_is_signalled_by_the_device(self, rig: Rig, msix: Asker, events: Eventfds) -> None:
        assert rig.device.trigger(IrqType.MSIX, 3)
        assert rig.device.trigger(IrqType.MSIX, 3)
        assert rig.device.trigger(IrqType.MSIX, 7)
        assert events.fired() == [0, 0, 0, 2, 0, 0, 0, 1]

    def test_without_one_a_trigger_says_so(self, rig: Rig) -> None:
        assert not rig.device.trigger(IrqType.MSIX, 0)
        assert not rig.device.trigger(IrqType.INTX, 0)

    def test_a_vector_that_the_device_lacks_is_the_callers_mistake(self, rig: Rig) -> None:
        for irq_type, vector in ((IrqType.MSIX, 8), (IrqType.MSIX, -1), (IrqType.ERR, 0)):
            with pytest.raises(LocalProtocolError):
                rig.device.trigger(irq_type, vector)

    def test_a_full_one_never_blocks(self, rig: Rig, ask: Asker) -> None:
        full = os.eventfd(0)  # blocking, as a hostile client may choose
        os.eventfd_write(full, 2**64 - 2)
        assert ask(8, payload(EVENTFD | TRIGGER, MSIX, 0, 1), (full,))[0] == 0
        assert rig.device.trigger(IrqType.MSIX, 0)
        assert ask(13)[0] == 0
        os.close(full)

    @pytest.mark.parametrize("by_message", [False, True])
    def test_a_full_one_that_would_block_blocks_nobody(self, rig: Rig, by_message: bool) -> None:
        """The client shares the flag that says not to wait, and clears it."""
        full = os.eventfd(0)
        with Client(rig.path) as client:
            client.negotiate()
            client.assign_eventfds(MSIX, 0, [full])
            os.eventfd_write(full, 2**64 - 2)
            flags = fcntl.fcntl(full, fcntl.F_GETFL)
            fcntl.fcntl(full, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
            if by_message:
                client.channel.send(wire.request(9, 8, payload(NONE | TRIGGER, MSIX, 0, 1)))
            else:
                signal = threading.Thread(target=rig.device.trigger, args=(IrqType.MSIX, 0))
                signal.start()
                signal.join()
        assert rig.observer.gone.wait(30)
        with Client(rig.path) as client:
            client.negotiate()
            assert client.device_info()[1] == 9
        os.close(full)

    def test_a_sub_range_leaves_the_rest(self, rig: Rig, msix: Asker, events: Eventfds) -> None:
        """QEMU: no descriptor in an EVENTFD|TRIGGER message clears those vectors."""
        assert msix(8, payload(EVENTFD | TRIGGER, MSIX, 2, 3))[0] == 0
        assert [rig.device.trigger(IrqType.MSIX, n) for n in range(8)] == [
            *(True, True, False, False, False, True, True, True)
        ]

    def test_a_new_one_replaces_the_old(self, rig: Rig, msix: Asker, events: Eventfds) -> None:
        assert msix(8, payload(EVENTFD | TRIGGER, MSIX, 0, 1), (events.fds[5],))[0] == 0
        rig.device.trigger(IrqType.MSIX, 0)
        assert events.fired() == [0, 0, 0, 0, 0, 1, 0, 0]

    def test_disabling_a_type_leaves_the_others(
        self, rig: Rig, msix: Asker, events: Eventfds
    ) -> None:
        assert msix(8, payload(EVENTFD | TRIGGER, INTX, 0, 1), (events.fds[7],))[0] == 0
        assert msix(8, payload(NONE | TRIGGER, MSIX, 0, 0))[0] == 0
        assert not any(rig.device.trigger(IrqType.MSIX, n) for n in range(8))
        assert rig.device.trigger(IrqType.INTX, 0)
        assert events.fired() == [0] * 7 + [1]

    @pytest.mark.parametrize("index", [MSI, ERR, REQ])
    def test_disabling_a_type_without_vectors_is_fine(self, ask: Asker, index: int) -> None:
        assert ask(8, payload(NONE | TRIGGER, index, 0, 0))[0] == 0

    def test_another_kind_of_descriptor_is_refused(self, rig: Rig, ask: Asker) -> None:
        file = os.memfd_create("file")
        assert ask(8, payload(EVENTFD | TRIGGER, MSIX, 0, 1), (file,))[0] == errno.EINVAL
        assert not rig.device.trigger(IrqType.MSIX, 0)
        assert os.fstat(file).st_size == 0
        os.close(file)

    def test_disconnection_closes_them(self, rig: Rig) -> None:
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        with Client(rig.path) as client:
            client.negotiate()
            client.assign_eventfds(MSIX, 0, [eventfd])
        assert rig.observer.gone.wait(30)
        assert not rig.device.trigger(IrqType.MSIX, 0)
        os.close(eventfd)


class TestByTheClient:
    def test_trigger_of_a_range(self, msix: Asker, events: Eventfds) -> None:
        assert msix(8, payload(NONE | TRIGGER, MSIX, 1, 3))[0] == 0
        assert events.fired() == [0, 1, 1, 1, 0, 0, 0, 0]

    def test_trigger_of_chosen_ones(self, msix: Asker, events: Eventfds) -> None:
        assert msix(8, payload(BOOL | TRIGGER, MSIX, 0, 4, b"\1\0\0\2"))[0] == 0
        assert events.fired() == [1, 0, 0, 1, 0, 0, 0, 0]

    def test_masked_ones_stay_pending(self, rig: Rig, msix: Asker, events: Eventfds) -> None:
        assert msix(8, payload(NONE | MASK, MSIX, 0, 2))[0] == 0
        for vector in range(3):
            rig.device.trigger(IrqType.MSIX, vector)
            rig.device.trigger(IrqType.MSIX, vector)
        assert events.fired() == [0, 0, 2, 0, 0, 0, 0, 0]
        assert msix(8, payload(BOOL | UNMASK, MSIX, 0, 2, b"\0\1"))[0] == 0
        assert events.fired() == [0, 1, 0, 0, 0, 0, 0, 0]
        assert msix(8, payload(NONE | UNMASK, MSIX, 0, 8))[0] == 0
        assert events.fired() == [1, 0, 0, 0, 0, 0, 0, 0]
        assert msix(8, payload(NONE | UNMASK, MSIX, 0, 8))[0] == 0
        assert events.fired() == [0] * 8

    def test_intx_masks_itself(self, rig: Rig, ask: Asker, events: Eventfds) -> None:
        """AUTOMASKED: one signal until UNMASK, which brings what came meanwhile."""
        assert ask(8, payload(EVENTFD | TRIGGER, INTX, 0, 1), events.fds[:1])[0] == 0
        for _ in range(3):
            assert rig.device.trigger(IrqType.INTX, 0)
        assert events.fired()[0] == 1
        assert ask(8, payload(NONE | UNMASK, INTX, 0, 1))[0] == 0
        assert events.fired()[0] == 1
        assert ask(8, payload(NONE | UNMASK, INTX, 0, 1))[0] == 0
        assert events.fired()[0] == 0
        assert rig.device.trigger(IrqType.INTX, 0)
        assert events.fired()[0] == 1

    def test_reset_forgets_what_is_masked_and_pending(
        self, rig: Rig, msix: Asker, events: Eventfds
    ) -> None:
        msix(8, payload(NONE | MASK, MSIX, 0, 8))
        rig.device.trigger(IrqType.MSIX, 0)
        msix(13)
        assert events.fired() == [0] * 8
        rig.device.trigger(IrqType.MSIX, 1)
        assert events.fired() == [0, 1, 0, 0, 0, 0, 0, 0]


class TestRefusals:
    @pytest.mark.parametrize("data", [0, NONE | BOOL, BOOL | EVENTFD, NONE | BOOL | EVENTFD])
    @pytest.mark.parametrize("action", [MASK, UNMASK, TRIGGER])
    def test_exactly_one_kind_of_data(self, ask: Asker, data: int, action: int) -> None:
        assert ask(8, payload(data | action, MSIX, 0, 1, b"\1"))[0] == errno.EINVAL

    @pytest.mark.parametrize("action", [0, MASK | UNMASK, UNMASK | TRIGGER, 56, 64, 1 << 31])
    def test_exactly_one_action(self, ask: Asker, action: int) -> None:
        assert ask(8, payload(NONE | action, MSIX, 0, 1))[0] == errno.EINVAL

    @pytest.mark.parametrize(
        ("index", "start", "count"),
        [(5, 0, 0), (2, 0, 9), (2, 8, 1), (2, 0xFFFFFFFF, 0xFFFFFFFF), (1, 0, 1), (2, 0, 1 << 31)],
    )
    def test_vectors_that_do_not_exist(
        self, ask: Asker, index: int, start: int, count: int
    ) -> None:
        assert ask(8, payload(NONE | TRIGGER, index, start, count))[0] == errno.EINVAL

    @pytest.mark.parametrize(
        ("flags", "start"),
        [(NONE | TRIGGER, 1), (NONE | MASK, 0), (BOOL | TRIGGER, 0), (EVENTFD | TRIGGER, 0)],
    )
    def test_a_count_of_zero_only_disables(self, ask: Asker, flags: int, start: int) -> None:
        assert ask(8, payload(flags, MSIX, start, 0))[0] == errno.EINVAL

    def test_fewer_booleans_than_vectors(self, ask: Asker) -> None:
        assert ask(8, payload(BOOL | TRIGGER, MSIX, 0, 4, b"\1\1\1"))[0] == errno.EINVAL

    @pytest.mark.parametrize("count", [1, 3])
    def test_another_number_of_descriptors_than_vectors(
        self, rig: Rig, ask: Asker, events: Eventfds, count: int
    ) -> None:
        request = payload(EVENTFD | TRIGGER, MSIX, 0, 2)
        assert ask(8, request, events.fds[:count])[0] == errno.EINVAL
        assert not rig.device.trigger(IrqType.MSIX, 0)

    @pytest.mark.parametrize("flags", [NONE | TRIGGER, BOOL | TRIGGER, NONE | MASK])
    def test_descriptors_where_none_belong(self, ask: Asker, events: Eventfds, flags: int) -> None:
        request = payload(flags, MSIX, 0, 1, b"\1")
        assert ask(8, request, events.fds[:1])[0] == errno.EINVAL

    def test_nothing_leaks_when_all_of_it_is_wrong(self, raw: Raw, events: Eventfds) -> None:
        for flags in range(64):
            raw.message(8, payload(flags, MSIX, 0, 2), descriptors=events.fds[:2])
            raw.reply()


class TestMaskingByEventfd:
    """VFIO_IRQ_SET_DATA_EVENTFD with MASK and UNMASK, as <linux/vfio.h> defines them."""

    @pytest.fixture
    def intx(self, ask: Asker, events: Eventfds) -> Asker:
        assert ask(8, payload(EVENTFD | TRIGGER, INTX, 0, 1), events.fds[:1]) == (0, b"")
        return ask

    def wait(self, eventfd: int) -> None:
        assert readable(eventfd, 20), "nothing was signalled"

    def test_unmasking_delivers_what_was_pending(
        self, rig: Rig, intx: Asker, events: Eventfds
    ) -> None:
        trigger, unmask = events.fds[:2]
        assert intx(8, payload(EVENTFD | UNMASK, INTX, 0, 1), (unmask,)) == (0, b"")
        for _ in range(3):
            rig.device.trigger(IrqType.INTX, 0)  # and masks itself
            self.wait(trigger)
            assert events.fired()[0] == 1
            rig.device.trigger(IrqType.INTX, 0)
            assert events.fired()[0] == 0
            os.eventfd_write(unmask, 1)
            self.wait(trigger)
            assert events.fired()[0] == 1
            os.eventfd_write(unmask, 1)
            while readable(unmask, 0):
                pass  # until the server has taken it
            assert intx(8, payload(NONE | UNMASK, INTX, 0, 1)) == (0, b"")

    def test_masking_holds_back(self, rig: Rig, msix: Asker, events: Eventfds) -> None:
        mask = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            assert msix(8, payload(EVENTFD | MASK, MSIX, 2, 1), (mask,)) == (0, b"")
            os.eventfd_write(mask, 1)
            for _ in range(100_000):
                rig.device.trigger(IrqType.MSIX, 2)
                if not events.fired()[2]:
                    break
            else:
                pytest.fail("it is never masked")
            assert msix(8, payload(NONE | UNMASK, MSIX, 2, 1)) == (0, b"")
            assert events.fired()[2] == 1
        finally:
            os.close(mask)

    @pytest.mark.parametrize("how", ["no descriptor", "disable", "replace"])
    def test_one_that_was_taken_away_does_nothing(
        self, rig: Rig, intx: Asker, events: Eventfds, how: str
    ) -> None:
        trigger, unmask, other = events.fds[:3]
        assert intx(8, payload(EVENTFD | UNMASK, INTX, 0, 1), (unmask,)) == (0, b"")
        if how == "disable":
            assert intx(8, payload(NONE | TRIGGER, INTX, 0, 0)) == (0, b"")
            assert intx(8, payload(EVENTFD | TRIGGER, INTX, 0, 1), (trigger,)) == (0, b"")
        else:
            descriptors = (other,) if how == "replace" else ()
            assert intx(8, payload(EVENTFD | UNMASK, INTX, 0, 1), descriptors) == (0, b"")
        rig.device.trigger(IrqType.INTX, 0)
        rig.device.trigger(IrqType.INTX, 0)
        assert events.fired()[0] == 1
        os.eventfd_write(unmask, 1)
        assert intx(8, payload(NONE | MASK, INTX, 0, 1)) == (0, b"")
        assert os.eventfd_read(unmask) == 1, "the server reads it still"
        assert events.fired()[0] == 0

    def test_no_thread_without_one(self, rig: Rig, intx: Asker, events: Eventfds) -> None:
        def watching() -> bool:
            return any(t.name == "vfio-user-irq-watch" for t in threading.enumerate())

        assert not watching()
        assert intx(8, payload(EVENTFD | UNMASK, INTX, 0, 1), events.fds[1:2]) == (0, b"")
        assert watching()
        assert intx(8, payload(EVENTFD | UNMASK, INTX, 0, 1)) == (0, b"")
        assert not watching()
