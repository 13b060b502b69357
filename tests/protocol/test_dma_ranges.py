"""VFIO_USER_DMA_MAP and VFIO_USER_DMA_UNMAP, and what QEMU makes of them."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
import threading
from collections.abc import Iterator

import pytest

from pyvfio_user import Access
from pyvfio_user.bulk import BulkReceiver, Piece

from .rig import PAGE, Asker, Raw, Rig, open_descriptors

DMA_MAP = 2
DMA_UNMAP = 3
TOP = 1 << 64


def map_payload(iova: int, size: int, *, offset: int = 0, flags: int = 3) -> bytes:
    return struct.pack("=IIQQQ", 32, flags, offset, iova, size)


def unmap_payload(iova: int, size: int, *, flags: int = 0, argsz: int = 24) -> bytes:
    return struct.pack("=IIQQ", argsz, flags, iova, size)


@pytest.fixture
def memory() -> Iterator[int]:
    """A megabyte of the client's, unsealed."""
    descriptor = os.memfd_create("client")
    os.ftruncate(descriptor, 1 << 20)
    yield descriptor
    os.close(descriptor)


def memory_maps(name: str) -> int:
    with open("/proc/self/maps") as maps:
        return sum(f"memfd:{name} " in line for line in maps)


def layout(rig: Rig) -> list[tuple[int, int]]:
    return [(mapping.iova, mapping.size) for mapping in rig.device.dma.mappings()]


class TestMap:
    def test_has_no_payload_in_its_reply(self, ask: Asker, memory: int) -> None:
        assert ask(DMA_MAP, map_payload(0, PAGE), (memory,)) == (0, b"")

    def test_before_anything_else_is_accepted(self, rig: Rig, ask: Asker, memory: int) -> None:
        """QEMU maps before DEVICE_GET_INFO; `described` comes after."""
        assert ask(DMA_MAP, map_payload(0, PAGE), (memory,))[0] == 0
        ask(4, struct.pack("=IIII", 16, 0, 0, 0))
        ask(4, struct.pack("=IIII", 16, 0, 0, 0))
        assert rig.observer.events == [("connected",), ("mapped", 0, PAGE), ("described",)]

    def test_with_a_descriptor_the_memory_is_the_clients(
        self, rig: Rig, ask: Asker, memory: int
    ) -> None:
        os.pwrite(memory, b"theirs", 5 * PAGE)
        assert ask(DMA_MAP, map_payload(0x10000, PAGE, offset=5 * PAGE), (memory,))[0] == 0
        assert rig.device.dma.read(0x10000, 6) == b"theirs"
        rig.device.dma.write(0x10000, b"ours")
        assert os.pread(memory, 6, 5 * PAGE) == b"oursrs"

    def test_without_a_descriptor_only_messages_reach_it(self, rig: Rig, ask: Asker) -> None:
        assert ask(DMA_MAP, map_payload(0, PAGE, flags=1))[0] == 0
        (mapping,) = rig.device.dma.mappings()
        assert (mapping.backing, mapping.access) == (None, Access.READ)

    @pytest.mark.parametrize(
        ("iova", "size", "flags"),
        [(0, 0, 3), (TOP - PAGE, 2 * PAGE, 3), (1, TOP - 1, 7), (0, PAGE, 4), (0, PAGE, 1 << 31)],
    )
    def test_an_impossible_one_is_refused(
        self, rig: Rig, ask: Asker, iova: int, size: int, flags: int
    ) -> None:
        assert ask(DMA_MAP, map_payload(iova, size, flags=flags))[0] == errno.EINVAL
        assert layout(rig) == []

    def test_the_file_must_have_the_bytes(self, ask: Asker, memory: int) -> None:
        for offset in ((1 << 20) - PAGE + 1, TOP - PAGE):
            payload = map_payload(0, PAGE, offset=offset)
            assert ask(DMA_MAP, payload, (memory,))[0] == errno.EINVAL

    def test_a_file_that_grew_is_looked_at_again(self, rig: Rig, ask: Asker, memory: int) -> None:
        assert ask(DMA_MAP, map_payload(0, PAGE), (memory,))[0] == 0
        os.ftruncate(memory, 2 << 20)
        os.pwrite(memory, b"new", (2 << 20) - PAGE)
        payload = map_payload(PAGE, PAGE, offset=(2 << 20) - PAGE)
        assert ask(DMA_MAP, payload, (memory,))[0] == 0
        assert rig.device.dma.read(PAGE, 3) == b"new"

    @pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "write-only", "device"])
    def test_what_is_no_readable_file_is_refused(self, ask: Asker, kind: str) -> None:
        others = []
        if kind == "pipe":
            descriptor, other = os.pipe()
            others.append(other)
        elif kind == "socket":
            descriptor = os.eventfd(0)
        elif kind == "directory":
            descriptor = os.open("/", os.O_RDONLY)
        elif kind == "device":
            descriptor = os.open("/dev/zero", os.O_RDWR)
        else:
            source = os.memfd_create("w")
            os.ftruncate(source, PAGE)
            descriptor = os.open(f"/proc/self/fd/{source}", os.O_WRONLY)
            others.append(source)
        try:
            assert ask(DMA_MAP, map_payload(0, PAGE), (descriptor,))[0] == errno.EINVAL
        finally:
            for each in (descriptor, *others):
                os.close(each)

    def test_over_an_existing_region_is_eexist(self, ask_strict: Asker, memory: int) -> None:
        assert ask_strict(DMA_MAP, map_payload(0, 2 * PAGE), (memory,))[0] == 0
        payload = map_payload(PAGE, 2 * PAGE)
        assert ask_strict(DMA_MAP, payload, (memory,)) == (errno.EEXIST, b"")

    def test_a_read_only_file_is_not_written(self, rig: Rig, ask: Asker, memory: int) -> None:
        read_only = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
        assert ask(DMA_MAP, map_payload(0, PAGE), (read_only,))[0] == 0
        os.close(read_only)
        with pytest.raises(Exception, match="without a usable descriptor"):
            rig.device.dma.write(0, b"x")
        assert ask(DMA_MAP, map_payload(PAGE, PAGE), (memory,))[0] == 0
        rig.device.dma.write(PAGE, b"x")
        assert ask(DMA_UNMAP, unmap_payload(0, 2 * PAGE))[0] == 0

    def test_a_read_only_file_is_kept_once_too(self, ask: Asker, memory: int) -> None:
        read_only = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
        ask(DMA_MAP, map_payload(0, PAGE), (read_only,))
        before = open_descriptors()
        for page in range(1, 20):
            assert ask(DMA_MAP, map_payload(page * PAGE, PAGE), (read_only,))[0] == 0
        assert open_descriptors() == before
        os.close(read_only)

    @pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, 0x10], ids=["write", "future-write"])
    def test_a_file_sealed_against_writing_is_readable(
        self, rig: Rig, ask: Asker, seal: int
    ) -> None:
        sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
        os.write(sealed, b"x" * PAGE)
        fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | seal)
        assert ask(DMA_MAP, map_payload(0, PAGE), (sealed,))[0] == 0
        os.close(sealed)
        assert rig.device.dma.read(0, 3) == b"xxx"
        with pytest.raises(Exception, match="without a usable descriptor"):
            rig.device.dma.write(0, b"y")


class TestUnmap:
    def test_answers_with_the_request(self, ask: Asker, memory: int) -> None:
        ask(DMA_MAP, map_payload(PAGE, PAGE), (memory,))
        assert ask(DMA_UNMAP, unmap_payload(PAGE, PAGE)) == (0, unmap_payload(PAGE, PAGE))

    def test_releases_the_file_before_the_answer(self, ask: Asker, memory: int) -> None:
        before = open_descriptors()
        for page in range(10):
            ask(DMA_MAP, map_payload(page * PAGE, PAGE), (memory,))
        assert open_descriptors() > before
        for page in range(10):
            assert ask(DMA_UNMAP, unmap_payload(page * PAGE, PAGE))[0] == 0
        assert open_descriptors() == before

    def test_must_match_exactly(self, ask_strict: Asker) -> None:
        assert ask_strict(DMA_MAP, map_payload(0, 2 * PAGE))[0] == 0
        for iova, size in ((0, PAGE), (PAGE, PAGE), (0, 3 * PAGE), (8 * PAGE, PAGE)):
            assert ask_strict(DMA_UNMAP, unmap_payload(iova, size))[0] == errno.ENOENT
        assert ask_strict(DMA_UNMAP, unmap_payload(0, 2 * PAGE))[0] == 0

    def test_flags_are_refused_where_none_are_defined(self, ask_strict: Asker) -> None:
        for flags in (1, 2, 4):
            payload = unmap_payload(0, 0, flags=flags)
            assert ask_strict(DMA_UNMAP, payload)[0] == errno.EINVAL


class TestWhatQemuSends:
    """Each breach of the specification that QEMU commits behind an IOMMU."""

    def test_unmaps_of_nothing(self, ask: Asker) -> None:
        assert ask(DMA_UNMAP, unmap_payload(0xFEF00000, TOP - 0xFEF00000))[0] == 0
        assert ask(DMA_UNMAP, unmap_payload(1 << 63, 1 << 63))[0] == 0

    def test_an_unmap_that_covers_many(self, rig: Rig, ask: Asker, memory: int) -> None:
        """A page directory entry is cleared: one 2 MiB unmap over 4 KiB maps."""
        for page in range(5):
            ask(DMA_MAP, map_payload(0x200000 + page * PAGE, PAGE), (memory,))
        assert ask(DMA_UNMAP, unmap_payload(0x200000, 0x200000))[0] == 0
        assert layout(rig) == []
        assert rig.observer.events[-1] == ("unmapped", 0x200000, 0x200000, 5)

    def test_an_unmap_inside_a_mapping(self, rig: Rig, ask: Asker, memory: int) -> None:
        """A 2 MiB page is split: only its first 4 KiB are unmapped."""
        ask(DMA_MAP, map_payload(0, 0x80000, offset=0x80000), (memory,))
        assert ask(DMA_UNMAP, unmap_payload(0, PAGE))[0] == 0
        assert layout(rig) == [(PAGE, 0x80000 - PAGE)]

    def test_a_map_over_a_mapping(self, rig: Rig, ask: Asker, memory: int) -> None:
        """amd-iommu retargets without an unmap."""
        os.pwrite(memory, b"old", 0)
        os.pwrite(memory, b"new", 0x8000)
        ask(DMA_MAP, map_payload(0, 4 * PAGE), (memory,))
        assert ask(DMA_MAP, map_payload(0, PAGE, offset=0x8000), (memory,))[0] == 0
        assert rig.device.dma.read(0, 3) == b"new"
        assert layout(rig) == [(0, PAGE), (PAGE, 3 * PAGE)]

    def test_unmap_all(self, rig: Rig, ask: Asker, memory: int) -> None:
        """virtio-iommu: flags 2, address 0, size 0."""
        for page in (0, 7, 1 << 40):
            ask(DMA_MAP, map_payload(page * PAGE, PAGE), (memory,))
        assert ask(DMA_UNMAP, unmap_payload(0, 0, flags=2))[0] == 0
        assert layout(rig) == []
        assert rig.observer.events[-1] == ("unmapped", 0, TOP, 3)

    def test_unmap_all_of_a_range_is_refused(self, rig: Rig, ask: Asker) -> None:
        ask(DMA_MAP, map_payload(0, PAGE))
        assert ask(DMA_UNMAP, unmap_payload(0, PAGE, flags=2))[0] == errno.EINVAL
        assert layout(rig) == [(0, PAGE)]

    def test_sizes_that_end_at_the_end_of_the_space(self, rig: Rig, ask: Asker) -> None:
        assert ask(DMA_MAP, map_payload(TOP - PAGE, PAGE))[0] == 0
        assert ask(DMA_UNMAP, unmap_payload(TOP - 0xFFFFFFFF01100000, 0xFFFFFFFF01100000))[0] == 0
        assert layout(rig) == []

    def test_a_map_smaller_than_a_page(self, rig: Rig, ask: Asker, memory: int) -> None:
        """virtio-iommu does not check the guest's granularity."""
        assert ask(DMA_MAP, map_payload(0x1000, 0x200, offset=0x400), (memory,))[0] == 0
        assert len(rig.device.dma.read(0x1000, 0x200)) == 0x200

    def test_many_in_flight(self, rig: Rig, raw: Raw, memory: int) -> None:
        """Maps at realize are sent without waiting; they are done in order."""
        for page in range(100):
            raw.message(2, map_payload(page * PAGE, PAGE), message_id=page, descriptors=(memory,))
        assert [raw.reply()[:4] for _ in range(100)] == [(n, 2, 1, 0) for n in range(100)]
        assert len(rig.device.dma) == 100

    def test_a_new_descriptor_of_the_same_file_for_each_page(
        self, rig: Rig, ask: Asker, memory: int
    ) -> None:
        ask(DMA_MAP, map_payload(0, PAGE), (memory,))
        before = open_descriptors()
        for page in range(1, 256):
            other = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)
            payload = map_payload(page * PAGE, PAGE, offset=page * PAGE)
            assert ask(DMA_MAP, payload, (other,))[0] == 0
            os.close(other)
        assert open_descriptors() == before
        with rig.device.dma.access(0, 256 * PAGE, Access.READ) as spans:
            assert len(spans) == 1

    def test_more_mappings_than_the_kernel_has_memory_maps(
        self, rig: Rig, raw: Raw, request: pytest.FixtureRequest
    ) -> None:
        """vm.max_map_count is 65530 by default; descriptors are fewer still."""
        count, window = 65_535, 128
        memory = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
        request.addfinalizer(lambda: os.close(memory))
        os.ftruncate(memory, count * PAGE)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        raw.ask(DMA_MAP, map_payload(0, PAGE), descriptors=(memory,))
        costs = memory_maps("guest"), open_descriptors()
        assert costs[0] == 1
        for start in range(1, count, window):
            pages = range(start, min(start + window, count))
            for page in pages:
                payload = map_payload(page * PAGE, PAGE, offset=page * PAGE)
                raw.message(DMA_MAP, payload, descriptors=(memory,))
            assert all(raw.reply()[3] == 0 for _ in pages)
        assert len(rig.device.dma) == count
        rig.device.dma.write((count - 1) * PAGE, b"last")
        assert os.pread(memory, 4, (count - 1) * PAGE) == b"last"
        assert (memory_maps("guest"), open_descriptors()) == costs
        for start in range(0, count, window):
            pages = range(start, min(start + window, count))
            for page in pages:
                raw.message(DMA_UNMAP, unmap_payload(page * PAGE, PAGE))
            assert all(raw.reply()[3] == 0 for _ in pages)
        assert layout(rig) == []


class TestInARow:
    """What a client sends ahead is received, carried out and answered together."""

    def test_all_of_it_in_order(
        self, rig: Rig, raw: Raw, memory: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Among it: a write longer than what a piece holds, a message in two, one without."""
        together: list[int] = []
        receive = BulkReceiver.receive

        def counted(bulk: BulkReceiver, descriptor: int) -> list[Piece]:
            pieces = receive(bulk, descriptor)
            together.append(len(pieces))
            return pieces

        monkeypatch.setattr(BulkReceiver, "receive", counted)
        rig.registers.gate = gate = threading.Event()
        read = struct.pack("=QII", 0, 2, 4)
        raw.message(9, read, message_id=0)  # until all the rest is there
        pages = range(50)  # the socket takes a few more before it makes its sender wait
        for page in pages:
            if page == 30:
                data = bytes(range(256)) * 10
                write = struct.pack("=QII", 0x100, 2, len(data)) + data
                raw.message(10, write, message_id=1000)
            payload = map_payload(page * PAGE, PAGE, offset=page * PAGE)
            message = struct.pack("=HHIII", 1 + page, DMA_MAP, 48, 0, 0) + payload
            if page == 35:
                raw.send(message[:20], (memory,))
                raw.send(message[20:])
            else:
                raw.send(message, () if page == 40 else (memory,))
        unmaps = [
            struct.pack("=HHIII", 2000 + page, DMA_UNMAP, 40, 0, 0)
            + unmap_payload(page * PAGE, PAGE)
            for page in pages
        ]
        raw.send(b"".join(unmaps))
        gate.set()
        sent = [0, *(1 + page for page in pages), *(2000 + page for page in pages)]
        sent.insert(31, 1000)
        found = [raw.reply() for _ in sent]
        assert [(number, error) for number, _, _, error, _ in found] == [(i, 0) for i in sent]
        assert rig.registers.bytes[0x100:0xB00] == data
        mapped = [("mapped", page * PAGE, PAGE) for page in pages]
        unmapped = [("unmapped", page * PAGE, PAGE, 1) for page in pages]
        assert rig.observer.events == [("connected",), *mapped, *unmapped]
        assert layout(rig) == []
        assert max(together) > len(pages)

    def test_a_client_that_leaves_is_no_leak(self, rig: Rig, raw: Raw, memory: int) -> None:
        """The fixture counts the descriptors."""
        rig.registers.gate = gate = threading.Event()
        raw.message(9, struct.pack("=QII", 0, 2, 4))
        for page in range(50):
            raw.message(DMA_MAP, map_payload(page * PAGE, PAGE), descriptors=(memory,))
        raw.send(struct.pack("=HHIII", 1, DMA_MAP, 48, 0, 0), (memory,))
        raw.close()
        gate.set()
        assert rig.observer.gone.wait(30)


class TestHostileFiles:
    def test_a_file_that_shrinks_is_a_fault_not_a_signal(
        self, rig: Rig, ask: Asker, memory: int
    ) -> None:
        ask(DMA_MAP, map_payload(0, 16 * PAGE), (memory,))
        os.ftruncate(memory, PAGE)
        assert rig.device.dma.read(0, PAGE) == bytes(PAGE)
        for touch in (
            lambda: rig.device.dma.read(2 * PAGE, 4),
            lambda: rig.device.dma.write(2 * PAGE, b"data"),
        ):
            with pytest.raises(Exception, match="without a usable descriptor"):
                touch()
        assert os.fstat(memory).st_size == PAGE, "our write made their file longer"

    def test_the_descriptor_limit_is_an_error_and_the_stream_stays_in_step(
        self, rig: Rig, raw: Raw, memory: int
    ) -> None:
        raw.ask(13)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
        fillers = []
        try:
            while True:
                fillers.append(os.dup(0))
        except OSError:
            pass
        try:
            raw.message(2, map_payload(0, PAGE), descriptors=(memory,))
            assert raw.socket.recv(16)[12:16] == struct.pack("=I", errno.EMFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for filler in fillers:
                os.close(filler)
        raw.message(2, map_payload(0, PAGE), descriptors=(memory,))
        assert raw.reply()[3] == 0
        assert layout(rig) == [(0, PAGE)]
