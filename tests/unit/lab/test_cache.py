"""Entries of the cache are whole or absent."""

import fcntl
import os
from pathlib import Path

import pytest

from vdxgk_lab.cache import Cache, default_root, key_of, key_of_files


def leftovers(cache: Cache, kind: str) -> list[str]:
    return [path.name for path in (cache.root / kind).iterdir() if path.name.startswith(".tmp-")]


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    built = []

    def build(target: Path) -> None:
        built.append(target)
        (target / "product").write_text("42")

    first = cache.entry("thing", "k", build)
    second = cache.entry("thing", "k", build)
    assert first == second == cache.path("thing", "k")
    assert (first / "product").read_text() == "42"
    assert len(built) == 1
    assert built[0] != first
    assert leftovers(cache, "thing") == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    cache = Cache(tmp_path)

    def build(target: Path) -> None:
        (target / "half").write_text("done")
        locked = target / "locked"
        locked.mkdir()
        (locked / "file").touch()
        locked.chmod(0o500)
        raise error

    with pytest.raises(error):
        cache.entry("thing", "k", build)
    assert not cache.path("thing", "k").exists()
    assert leftovers(cache, "thing") == []


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    pid = os.fork()
    if pid == 0:

        def die(target: Path) -> None:
            (target / "half").write_text("done")
            os._exit(9)

        cache.entry("thing", "k", die)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert len(leftovers(cache, "thing")) == 1
    assert not cache.path("thing", "k").exists()

    cache.entry("thing", "k", lambda target: (target / "whole").touch())
    assert leftovers(cache, "thing") == []
    assert (cache.path("thing", "k") / "whole").exists()


def test_the_other_process_waits_and_takes_the_first_ones_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    started, started_theirs = os.pipe()
    go_theirs, go = os.pipe()
    pid = os.fork()
    if pid == 0:

        def slow(target: Path) -> None:
            os.write(started_theirs, b"s")
            os.read(go_theirs, 1)
            (target / "by").write_text("child")

        cache.entry("thing", "k", slow)
        os._exit(0)
    os.read(started, 1)  # the child is in the middle of its build
    with (tmp_path / "thing/.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(go, b"g")

    def build(target: Path) -> None:
        (target / "by").write_text("parent")

    mine = cache.entry("thing", "k", build)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (mine / "by").read_text() == "child"
    for descriptor in (started, started_theirs, go_theirs, go):
        os.close(descriptor)


def test_what_nobody_used_for_a_month_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def build(target: Path) -> None:
        (target / "product").touch()

    used, unused = (cache.entry("thing", key, build) for key in ("used", "unused"))
    for entry in (used, unused):
        os.utime(entry, (0, 0))
    assert cache.entry("thing", "used", build) == used
    cache.entry("thing", "new", build)
    assert used.exists()
    assert not unused.exists()


def test_keys_change_with_the_parts_and_their_borders() -> None:
    keys = {key_of(parts) for parts in ([], [""], ["a"], ["ab"], ["a", "b"], ["b", "a"], [b"a\0"])}
    assert len(keys) == 7
    assert key_of(["a"]) == key_of([b"a"])


def test_the_key_of_files_changes_with_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("1")
    before = key_of_files(tmp_path)
    assert key_of_files(tmp_path) == before
    (tmp_path / "a.c").write_text("2")
    changed = key_of_files(tmp_path)
    (tmp_path / "a.c").rename(tmp_path / "b.c")
    assert len({before, changed, key_of_files(tmp_path)}) == 3


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VDXGK_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_root() == Path("/home/u/.cache/vdxgk")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_root() == Path("/home/u/.cache/vdxgk")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_root() == Path("/xdg/vdxgk")
    monkeypatch.setenv("VDXGK_CACHE", "/own")
    assert default_root() == Path("/own")
