"""The archive, read back by GNU cpio's and the kernel's rules."""

import io
import stat
from dataclasses import dataclass

from vdxgk_lab.cpio import CpioWriter


@dataclass
class Entry:
    mode: int
    data: bytes
    device: tuple[int, int]
    inode: int


def read(archive: bytes) -> dict[str, Entry]:
    """A reader of its own, from cpio(5)."""
    entries: dict[str, Entry] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_size, size = fields[11], fields[6]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += (110 + name_size + 3) // 4 * 4
        data = archive[at : at + size]
        assert len(data) == size
        at += (size + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return entries
        text = name[:-1].decode()
        assert text not in entries
        entries[text] = Entry(fields[1], data, (fields[9], fields[10]), fields[0])


def test_what_is_written_is_read_back() -> None:
    stream = io.BytesIO()
    cpio = CpioWriter(stream)
    contents = {f"data/{size}": bytes(range(size)) for size in range(9)}
    for name, data in contents.items():
        cpio.file(name, data)
    cpio.file("init", b"#!", executable=True)
    cpio.symlink("bin/sh", "busybox")
    cpio.character_device("dev/console", 5, 1)
    cpio.finish()

    entries = read(stream.getvalue())
    assert {name: entries[name].data for name in contents} == contents
    assert entries["data/0"].mode == stat.S_IFREG | 0o644
    assert entries["init"].mode == stat.S_IFREG | 0o755
    assert (entries["bin/sh"].mode, entries["bin/sh"].data) == (stat.S_IFLNK | 0o777, b"busybox")
    assert entries["dev/console"].mode == stat.S_IFCHR | 0o600
    assert entries["dev/console"].device == (5, 1)
    # Equal inode numbers would make hard links of different files.
    assert len({entry.inode for entry in entries.values()}) == len(entries)


def test_parents_come_first_and_once() -> None:
    stream = io.BytesIO()
    cpio = CpioWriter(stream)
    cpio.file("a/b/c", b"")
    cpio.file("a/b/d", b"")
    cpio.directory("a")
    cpio.finish()
    entries = read(stream.getvalue())
    assert list(entries) == ["a", "a/b", "a/b/c", "a/b/d"]
    assert entries["a/b"].mode == stat.S_IFDIR | 0o755
