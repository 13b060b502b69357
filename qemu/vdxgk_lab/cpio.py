"""Writes cpio archives in the newc format, as the kernel unpacks its initramfs from.

Format: cpio(5), "New ASCII Format"; the kernel's reading of it is in
Documentation/driver-api/early-userspace/buffer-format.rst.  Archives are
reproducible: same entries, same bytes.
"""

import stat
from typing import BinaryIO


class CpioWriter:
    """Appends entries to a binary stream. Parents of an entry come before it."""

    def __init__(self, stream: BinaryIO) -> None:
        """Write to `stream`, which stays the caller's to close."""
        self._stream = stream
        self._inode = 0
        self._made: set[str] = set()

    def directory(self, name: str) -> None:
        """A directory, and its parents, unless already made. `name` has no leading slash."""
        if name and name not in self._made:
            self.directory(name.rpartition("/")[0])
            self._made.add(name)
            self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, executable: bool = False) -> None:
        """A regular file."""
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def symlink(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        """A character device node."""
        self.directory(name.rpartition("/")[0])
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> None:
        """The trailer, without which the archive is incomplete."""
        self._inode = -1  # its inode number is 0
        self._entry("TRAILER!!!", 0)

    def _entry(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            *(self._inode, mode, 0, 0),  # root's
            *(1, 0, len(data)),  # links, modification time, size
            *(0, 0, *device),
            *(len(encoded), 0),  # the checksum is unused in this format
        )
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._stream.write(_padded(header + encoded) + _padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
