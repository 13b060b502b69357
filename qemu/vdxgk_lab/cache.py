"""The user's cache: directories keyed by what they are made of.

An entry is built in a temporary sibling and renamed into place, so whatever
has its final name is whole.  An interrupted build leaves a temporary
directory, which the next build of the same kind removes; and what nobody
used for a month goes with it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = ".tmp-"
_UNUSED_SECONDS = 30 * 24 * 3600


def default_root() -> Path:
    """`$VDXGK_CACHE`, else `$XDG_CACHE_HOME/vdxgk`, else `~/.cache/vdxgk`."""
    if own := os.environ.get("VDXGK_CACHE"):
        return Path(own).absolute()
    # The XDG specification has relative paths ignored.
    if (xdg := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        return Path(xdg) / "vdxgk"
    return Path.home() / ".cache" / "vdxgk"


def key_of(parts: Iterable[str | bytes]) -> str:
    """A key of 16 hexadecimal digits that changes with any part or their borders."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


def key_of_files(root: Path) -> str:
    """A key over the names and contents of all files below `root`."""
    parts: list[str | bytes] = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            parts += [path.relative_to(root).as_posix(), path.read_bytes()]
    return key_of(parts)


class Cache:
    """Entries below one directory, as `<kind>/<key>`."""

    def __init__(self, root: Path | None = None) -> None:
        """Use `root`, or :func:`default_root`; it is made when first written to."""
        self.root = root if root is not None else default_root()

    def path(self, kind: str, key: str) -> Path:
        """Where an entry is, or would be."""
        return self.root / kind / key

    def entry(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The directory of an entry, built by `build(empty directory)` if need be.

        One process builds at a time; others wait for it. What `build` raises
        is passed on, and leaves nothing behind.
        """
        final = self.path(kind, key)
        if final.is_dir():
            _mark_used(final)
            return final
        with self.lock(kind):
            if final.is_dir():
                return final
            for stale in (*final.parent.glob(_TEMPORARY + "*"), *_unused(final.parent)):
                remove_tree(stale)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=final.parent))
            try:
                temporary.chmod(0o755)
                build(temporary)
                temporary.rename(final)
            except BaseException:
                remove_tree(temporary)
                raise
        return final

    @contextmanager
    def lock(self, kind: str) -> Iterator[None]:
        """Exclude other processes from changing entries of this kind."""
        directory = self.root / kind
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _mark_used(entry: Path) -> None:
    with contextlib.suppress(OSError):  # a cache may be read-only
        os.utime(entry)


def _unused(directory: Path) -> Iterator[Path]:
    limit = time.time() - _UNUSED_SECONDS
    for entry in directory.iterdir():
        if entry.is_dir() and entry.stat().st_mtime < limit:
            yield entry


def remove_tree(path: Path) -> None:
    """Remove a directory tree, unwritable directories included."""
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o755)
    shutil.rmtree(path, ignore_errors=True)
