"""Each limit: up to it everything, beyond it one NTSTATUS, and room again afterwards."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog
from click.testing import CliRunner

from tests.unit.vdxgk.raw_guest import RawGuest, serving
from tests.unit.vdxgk.test_cli import served
from tests.unit.vdxgk.test_docs import PAGE
from tests.unit.vdxgk.vnc.viewer import SocketViewer
from tests.unit.vdxgk.world import HIGH_BASE, World, contiguous, mdl, section
from tests.waiting import wait_for
from vdxgk.adapter import AdapterOptions
from vdxgk.channel import layout
from vdxgk.cli import main
from vdxgk.cli_types import size_text
from vdxgk.log import LineLimit, configure
from vdxgk.memory.backend import Quotas
from vdxgk.memory.limits import LIMITS
from vdxgk.memory.ntstatus import NtStatus, Refused
from vdxgk.memory.objects import AddressingMode
from vdxgk.memory.pages import PAGE_SIZE, Range

MIB = 1 << 20
GUARDED = 16 * PAGE_SIZE


def beyond(name: str) -> pytest.RaisesExc[Refused]:
    """What the guest is told by a limit of LIMITS."""
    status = LIMITS[name].status
    assert status is not None
    return pytest.raises(Refused, match=status.symbol)


class TestMemory:
    def test_objects_whether_open_or_not(self) -> None:
        world = World(quotas=Quotas(objects=2))
        adapter = world.start().handle
        first = world.create(contiguous(adapter, PAGE_SIZE))
        world.create(contiguous(0, PAGE_SIZE))
        with beyond("objects"):
            world.create(contiguous(0, PAGE_SIZE))
        assert first.opening
        world.backend.destroy(first.handle, first.opening.handle)
        world.create(contiguous(0, PAGE_SIZE))

    def test_lists(self) -> None:
        world = World(quotas=Quotas(lists=2))
        opening = world.create(contiguous(world.start().handle, MIB)).opening
        assert opening
        lists = [world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0) for _ in range(2)]
        with beyond("lists"):
            world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)
        world.backend.free_adl(opening.handle, lists[0].handle)
        world.backend.release_adl(opening.handle, lists[0].handle)
        world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)

    def test_lists_that_are_not_committed(self) -> None:
        world = World(quotas=Quotas(unfinished_lists=2))
        opening = world.create(contiguous(world.start().handle, MIB)).opening
        assert opening
        first = world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)
        world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)
        with beyond("unfinished_lists"):
            world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)
        world.map_all(first)
        world.backend.commit_adl(opening.handle, first.handle)
        world.backend.allocate_adl(opening.handle, 0, PAGE_SIZE, 0)

    def test_pieces_of_objects(self) -> None:
        world = World(quotas=Quotas(pieces=3))
        adapter = world.start().handle
        objects = [world.create(contiguous(adapter, PAGE_SIZE)) for _ in range(3)]
        free = world.backend.pool.free_bytes
        with beyond("pieces"):
            world.create(contiguous(adapter, PAGE_SIZE))
        assert world.backend.pool.free_bytes == free, "a refused call takes no memory"
        assert len(world.backend.objects) == 3
        opening = objects[0].opening
        assert opening
        world.backend.destroy(objects[0].handle, opening.handle)
        world.create(contiguous(adapter, PAGE_SIZE))

    def test_pieces_of_scattered_memory(self) -> None:
        world = World(quotas=Quotas(pieces=GUARDED // PAGE_SIZE // 2))
        with beyond("pieces"):
            world.create(mdl(world.start().handle, 4 * GUARDED))
        assert (world.backend.pieces.held, len(world.backend.objects)) == (0, 0)
        assert world.backend.pool.free_bytes == world.backend.pool.donated
        assert world.report.surpluses == 0
        world.create(contiguous(0, MIB))

    def test_what_a_refused_object_took_can_be_reclaimed(self) -> None:
        world = World(quotas=Quotas(pieces=1, reserve_bytes=0))
        world.create(contiguous(0, PAGE_SIZE))
        with beyond("pieces"):
            world.create(contiguous(0, 2 * MIB))
        assert world.report.surpluses == 1

    def test_pieces_of_lists_and_of_sections(self) -> None:
        world = World(quotas=Quotas(pieces=3))
        adapter = world.start().handle
        first = world.create(contiguous(adapter, PAGE_SIZE)).opening
        second = world.create(section(adapter, PAGE_SIZE)).opening
        assert first
        assert second
        # A section has no pages, and no pieces, before it is used.
        adl = world.backend.allocate_adl(first.handle, 0, PAGE_SIZE, 0)
        world.map_all(adl)
        world.backend.commit_adl(first.handle, adl.handle)
        free = world.backend.adapters.get(adapter).space
        assert free
        logical = free.free_bytes
        with beyond("pieces"):
            world.donating(lambda: world.backend.allocate_adl(second.handle, 0, PAGE_SIZE, 0))
        assert free.free_bytes == logical, "a refused list takes no logical addresses"
        world.backend.free_adl(first.handle, adl.handle)
        world.unmap_all(adl)
        world.backend.release_adl(first.handle, adl.handle)
        world.backend.allocate_adl(second.handle, 0, PAGE_SIZE, 0)
        assert world.backend.pieces.held == 3
        world.backend.stop_adapter(adapter)
        assert world.backend.pieces.held == 0

    def test_views(self) -> None:
        world = World(quotas=Quotas(cpu_mappings=1))
        target = world.create(contiguous(0, PAGE_SIZE))
        _, token = world.backend.map(target.handle, 0, 0, PAGE_SIZE)
        with beyond("cpu_mappings"):
            world.backend.map(target.handle, 0, 0, PAGE_SIZE)
        world.backend.unmap(token)
        world.backend.map(target.handle, 0, 0, PAGE_SIZE)

    def test_donated_bytes(self) -> None:
        world = World(quotas=Quotas(donated_bytes=2 * PAGE_SIZE))
        world.backend.donate([Range(HIGH_BASE, 2 * PAGE_SIZE)])
        with beyond("donated_bytes"):
            world.backend.donate([Range(HIGH_BASE + MIB, PAGE_SIZE)])
        with beyond("donated_bytes"):
            world.create(contiguous(0, MIB))

    def test_donated_blocks(self) -> None:
        world = World(quotas=Quotas(donated_blocks=2))
        blocks = [Range(HIGH_BASE + index * PAGE_SIZE, PAGE_SIZE) for index in range(3)]
        with beyond("donated_blocks"):
            world.backend.donate(blocks)
        assert world.backend.pool.donated == 0
        world.backend.donate(blocks[:2])
        with beyond("donated_blocks"):
            world.backend.donate(blocks[2:])
        assert world.backend.reclaim(True, 1) == blocks[:1]
        world.backend.donate(blocks[2:])

    def test_commitment(self) -> None:
        world = World(quotas=Quotas(committed_bytes=MIB))
        world.create(section(0, MIB))
        with beyond("committed_bytes"):
            world.create(section(0, PAGE_SIZE))

    def test_reserved_regions(self) -> None:
        world = World()
        regions = [Range((1 << 47) + index * MIB, PAGE_SIZE) for index in range(1025)]
        with pytest.raises(Refused, match="INVALID_PARAMETER: 1025 reserved regions"):
            world.start(reserved=regions)
        world.start(reserved=regions[:1024])

    def test_pages_of_an_identity_domain_are_found_without_a_walk(self) -> None:
        """Thousands of lists of thousands of pieces would hold the channel for hours."""
        world = World(dma_bits=64)
        adapter = world.start(mode=AddressingMode.PHYSICAL, highest_visible=(1 << 64) - 1)
        first = world.create(contiguous(adapter.handle, 3 * PAGE_SIZE)).opening
        assert first
        adl = world.backend.allocate_adl(first.handle, PAGE_SIZE, PAGE_SIZE, 0)
        with pytest.raises(Refused, match="RESOURCE_IN_USE"):
            world.backend.allocate_adl(first.handle, 0, 3 * PAGE_SIZE, 0)
        for offset in (0, 2 * PAGE_SIZE):
            world.backend.allocate_adl(first.handle, offset, PAGE_SIZE, 0)
        world.backend.free_adl(first.handle, adl.handle)
        world.backend.release_adl(first.handle, adl.handle)
        world.backend.allocate_adl(first.handle, PAGE_SIZE, PAGE_SIZE, 0)


@contextmanager
def guest(directory: Path, quotas: Quotas) -> Iterator[RawGuest]:
    with serving(directory, AdapterOptions(quotas=quotas)) as (_, path):
        guest = RawGuest(path)
        try:
            guest.start()
            yield guest
        finally:
            guest.close()


class TestPendingWork:
    LIMIT = 3
    WAITING = 5

    def test_engine_commands(self, tmp_path: Path) -> None:
        with guest(tmp_path, Quotas(pending=self.LIMIT)) as raw:
            waiting = [layout.EngineCommand(fence=fence) for fence in range(self.WAITING)]
            self._submit(raw, layout.RING_COMMANDS, layout.SHARED_COMMANDS, waiting)
            raw.write(layout.REG_ENGINE_DOORBELL, 1)
            ring, base = layout.RING_COMMAND_COMPLETIONS, layout.SHARED_COMMAND_COMPLETIONS
            answers = [
                layout.EngineCompletion.from_buffer_copy(
                    raw.consume(ring, base, 64, layout.VECTOR_ENGINE)
                )
                for _ in waiting
            ]
            assert [each.fence for each in answers] == list(range(self.WAITING))
            self._check([each.status for each in answers])
            assert raw.engine(op=layout.ENGINE_NOP).status == 0

    def test_requests(self, tmp_path: Path) -> None:
        with guest(tmp_path, Quotas(pending=self.LIMIT)) as raw:
            waiting = [layout.Request(op=layout.OP_RECLAIM) for _ in range(self.WAITING)]
            self._submit(raw, layout.RING_REQUESTS, layout.SHARED_REQUESTS, waiting)
            raw.write(layout.REG_CHANNEL_DOORBELL, 1)
            ring, base = layout.RING_COMPLETIONS, layout.SHARED_COMPLETIONS
            self._check(
                [
                    layout.Completion.from_buffer_copy(
                        raw.consume(ring, base, 128, layout.VECTOR_CHANNEL)
                    ).status
                    for _ in waiting
                ]
            )
            assert raw.request(layout.OP_RECLAIM).status == 0

    @staticmethod
    def _submit(
        raw: RawGuest,
        ring: int,
        base: int,
        entries: list[layout.EngineCommand] | list[layout.Request],
    ) -> None:
        """All at once: the other side sees none of them, or all."""
        header = raw.rings[ring]
        for number, entry in enumerate(entries):
            data = bytes(entry)
            slot = base + (header.producer + number) % layout.RING_ENTRIES * len(data)
            raw.shared[slot : slot + len(data)] = data
        header.producer += len(entries)

    def _check(self, statuses: list[int]) -> None:
        refused = self.WAITING - self.LIMIT
        assert LIMITS["pending"].status is NtStatus.DEVICE_BUSY
        assert statuses == [NtStatus.SUCCESS] * self.LIMIT + [NtStatus.DEVICE_BUSY] * refused


class TestLogLines:
    @staticmethod
    def passes(limit: LineLimit, event: str, **values: str) -> bool:
        try:
            limit(None, "info", {"event": event, **values})
        except structlog.DropEvent:
            return False
        return True

    def test_a_flood_of_one_kind_hides_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("threading.Timer", Mock())  # nobody is to be told later
        now = 7.5
        limit = LineLimit(2, lambda: now)
        assert [self.passes(limit, "fault", address=str(n)) for n in range(4)] == [
            *(True, True),
            *(False, False),
        ]
        assert self.passes(limit, "refused")
        assert self.passes(limit, "fault", device="another")
        now = 8.0
        assert self.passes(limit, "fault")

    def test_what_was_left_out_is_told(self) -> None:
        out = StringIO()
        configure(True, stream=out)
        structlog.configure(
            [LineLimit(3, lambda: 7.0), structlog.processors.JSONRenderer()],
            cache_logger_on_first_use=False,
        )
        log = structlog.get_logger("vdxgk")
        try:
            for number in range(5):
                log.info("flood", number=number)
            for number in range(7):
                log.info("another", number=number, device="b")
            wait_for(lambda: out.getvalue().count(LineLimit.NOTE) == 2, "the count")
        finally:
            structlog.reset_defaults()
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [line["event"] for line in lines[:6]] == ["flood"] * 3 + ["another"] * 3
        assert [(line["kind"], line.get("device"), line["count"]) for line in lines[6:]] == [
            ("flood", None, 2),
            ("another", "b", 4),
        ]

    def test_without_a_flood_there_is_no_timer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("threading.Timer", None)
        limit = LineLimit(2)
        assert self.passes(limit, "one")
        assert self.passes(limit, "two")


def test_viewers(tmp_path: Path) -> None:
    path = tmp_path / "vnc"
    with served(tmp_path / "s", "--vnc", str(path), "--max-viewers", "1"):
        viewer = SocketViewer(str(path))
        viewer.request(incremental=False)
        viewer.update()
        with socket.socket(socket.AF_UNIX) as late:
            late.settimeout(60)
            late.connect(str(path))
            assert late.recv(100) == b""
        viewer.request(incremental=False)
        viewer.update()
        viewer.socket.close()


@pytest.mark.parametrize("name", LIMITS)
def test_options_have_ranges(name: str) -> None:
    limit = LIMITS[name]
    for value in (limit.lowest - 1, limit.highest + 1):
        with pytest.raises(ValueError, match=limit.option):
            Quotas(**{name: value})
        result = CliRunner().invoke(main, ["serve", "--socket", "s", limit.option, str(value)])
        assert result.exit_code == 2
        assert limit.option in result.output
    Quotas(**{name: limit.lowest})
    Quotas(**{name: limit.highest})


def test_the_table_in_the_documentation() -> None:
    rows = re.findall(
        r"^\| `(--max-[a-z-]+)` \| .* \| ([\d,]+|\d+ [KMGT]iB) \| (.*) \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    defaults = Quotas()
    expected = []
    for name, limit in LIMITS.items():
        default = getattr(defaults, name)
        if limit.in_bytes:
            text = size_text(default)
            shown = f"{text[:-1]} {text[-1]}iB"
        else:
            shown = f"{default:,}"
        expected.append((limit.option, shown, limit.status.symbol if limit.status else "none"))
    assert rows == expected
