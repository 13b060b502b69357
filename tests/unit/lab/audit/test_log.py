"""Logs that are complete, that end too early, and that are damaged."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from tests.unit.lab.audit.logs import end, event, mapped, mark, unmapped, write
from vdxgk.audit.records import HEADER, RECORD, Ending, Kind
from vdxgk_lab.audit.history import replay
from vdxgk_lab.audit.log import AuditError, read
from vdxgk_lab.audit.report import analyse

GOOD = (
    event(1, Kind.CONNECTED),
    mapped(2, 0, 0x10000, offset=0),
    event(3, Kind.DESCRIBED),
    mark(4, "here"),
    unmapped(5, 0, 0x10000),
    event(6, Kind.DISCONNECTED),
    end(7),
)


def test_a_complete_log(tmp_path: Path) -> None:
    log = read(write(tmp_path / "log", GOOD))
    assert log.complete
    assert log.state == "complete"
    assert len(log.records) == 6
    assert log.seconds(log.end) == pytest.approx(7e-6)
    assert [text for _, text in log.marks()] == ["here"]


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ([end(7, Ending.LIMIT)], "limit of 64 MiB"),
        ([end(7, Ending.BEHIND)], "slower than the guest"),
        ([end(7, Ending.ERROR, errno.ENOSPC)], "No space left on device"),
        ([], "has no end"),
    ],
)
def test_a_log_that_ends_too_early_says_why(
    tmp_path: Path, ending: list[object], words: str
) -> None:
    log = read(write(tmp_path / "log", [*GOOD[:-1], *ending]))  # type: ignore[list-item]
    assert not log.complete
    assert log.state.startswith("INCOMPLETE")
    assert words in log.state


def test_part_of_a_record_is_no_record(tmp_path: Path) -> None:
    """A process that was killed while it wrote."""
    path = write(tmp_path / "log", GOOD)
    path.write_bytes(path.read_bytes()[:-3])
    log = read(path)
    assert len(log.records) == 6
    assert not log.complete


@pytest.mark.parametrize("content", [b"", b"vdxgk audit 1\n", b"pyvfio-user trace 1\n" * 9])
def test_what_is_no_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(AuditError, match=r"is no log.*\n.*--audit"):
        read(path)
    with pytest.raises(AuditError, match="No such file"):
        read(tmp_path / "none")


def test_a_log_of_nothing(tmp_path: Path) -> None:
    log = read(write(tmp_path / "log", []))
    assert len(log.records) == 0
    report = analyse(log, replay(log)).report
    assert (report.events, report.clients, report.ram) == (0, 0, 0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((3, 77, 0, 0, 0, 0, 0), "record 1 of 3 is of no known kind"),
        ((3, Kind.MAPPED, 3, 1, 10, 9, 0), "ends before it begins"),
        ((3, Kind.MAPPED, 4, 1, 0, 9, 0), "an access that there is not"),
        ((0, Kind.RESET, 0, 0, 0, 0, 0), "older than the one before"),
        (b"\xff" * 24, None),
    ],
)
def test_damage_is_named_with_its_place(tmp_path: Path, row: tuple[int, ...], words: str) -> None:
    if words is None:
        broken = mark(3, "x")[:16] + b"\xff" * 24
        path = write(tmp_path / "log", [event(1, Kind.CONNECTED), broken, end(9)])
        words = "a mark is not text"
    else:
        path = write(tmp_path / "log", [event(1, Kind.CONNECTED), row, end(9)])
    with pytest.raises(AuditError, match=words):
        read(path)


def test_nothing_may_stand_behind_the_end(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="behind the end"):
        read(write(tmp_path / "log", [end(1), event(2, Kind.RESET)]))


def test_random_damage_is_an_error_or_a_log(tmp_path: Path) -> None:
    """And never anything else."""
    good = write(tmp_path / "log", GOOD).read_bytes()
    source = random.Random(1)
    for _ in range(400):
        data = bytearray(good)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(HEADER.size, len(data))] = source.randrange(256)
        path = tmp_path / "log"
        path.write_bytes(data[: source.choice([len(data), source.randrange(len(data))])])
        try:
            log = read(path)
        except AuditError:
            continue
        assert analyse(log, replay(log)).report.events <= len(GOOD)
    assert RECORD.size == 40
