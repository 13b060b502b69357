"""Files behind DMA ranges, and memory that a device shares.

A file is mapped once, however many ranges and descriptors name it, and only
if it is sealed against shrinking: a client that truncates a mapped file would
kill this process with SIGBUS.  Other files go through positioned reads and
writes.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import threading
from typing import TYPE_CHECKING

from .connection import close_descriptor
from .errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from types import TracebackType

F_DUPFD_QUERY = 1024 + 3  # <linux/fcntl.h>, since Linux 6.10
WRITE_SEALS = fcntl.F_SEAL_WRITE | 0x10  # and F_SEAL_FUTURE_WRITE, <linux/fcntl.h>

Data = bytes | bytearray | memoryview


class SharedMemory:
    """Memory of the device's own that a client can map: a sealed memfd.

    `size` in bytes, fixed for life: the file can neither shrink nor grow.
    """

    def __init__(self, size: int, name: str) -> None:
        """Allocate zeroed memory; `name` shows in /proc.

        Raises ValueError for a size that is no positive multiple of the page
        size, OSError when the host has no memory.
        """
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"size {size} is no positive multiple of the page size")
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self._map)

    def clear(self) -> None:
        """Make every byte zero, and give the host its pages back if it takes them."""
        try:
            self._map.madvise(mmap.MADV_REMOVE)
        except OSError:
            self._map[:] = bytes(self.size)

    def close(self) -> None:
        """Let go of the memory; views of it that are still in use keep it alive."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            pass

    def __enter__(self) -> SharedMemory:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


def _seals(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:  # only memory files have seals
        return 0


def is_writable(descriptor: int) -> bool:
    """Whether a descriptor can write, and a mapping of it too."""
    mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    return mode == os.O_RDWR and not _seals(descriptor) & WRITE_SEALS


class Backing:
    """One file that the client shares, counted by those who use it: the table is one of them."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor, closed even when this raises.

        Raises RemoteProtocolError(EINVAL) if it is no regular file or not
        readable; OSError if it cannot be mapped.
        """
        self.mappings = 0  # that name it: the table's to count, under its lock
        self._fd = descriptor
        self._comparable = True
        self._users = 0
        self._users_lock = threading.Lock()
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        try:
            status = os.fstat(descriptor)
            mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            if not stat.S_ISREG(status.st_mode) or mode == os.O_WRONLY:
                raise RemoteProtocolError(errno.EINVAL, "not a readable regular file")
            self.identity = (status.st_dev, status.st_ino)
            self.writable = is_writable(descriptor)
            self.size = 0
            self._sealed = bool(_seals(descriptor) & fcntl.F_SEAL_SHRINK)
            self._comparable = self.is_opened_as(descriptor)
            self.refresh()
        except BaseException:
            close_descriptor(descriptor)
            raise

    def is_opened_as(self, descriptor: int) -> bool:
        """Whether a descriptor is of the same open file; False also if that cannot be told.

        Clients mostly send one descriptor again and again.  What is the same open file is
        the same file, with the same rights, and costs less to ask for.
        """
        try:
            return self._comparable and fcntl.fcntl(self._fd, F_DUPFD_QUERY, descriptor) == 1
        except OSError:
            return False

    @property
    def is_mapped(self) -> bool:
        """Whether `view` works: the file is in this process's memory."""
        return self._view is not None

    def refresh(self) -> None:
        """Look at the size again; a sealed file that grew is mapped anew."""
        size = os.fstat(self._fd).st_size
        if size == self.size:
            return
        if self._sealed:
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if self.writable else 0)
            # Views of an older, smaller mapping keep it alive as long as they live.
            self._map = mmap.mmap(self._fd, size, mmap.MAP_SHARED, protection)
            self._view = memoryview(self._map)
        self.size = size

    def view(self, offset: int, size: int) -> memoryview:
        """Return the bytes in place.  Only for a mapped file."""
        assert self._view is not None
        return self._view[offset : offset + size]

    def read(self, offset: int, size: int) -> bytes:
        """Copy bytes out.  Raises OSError (EIO when the file ends before)."""
        if self._view is not None:
            return bytes(self._view[offset : offset + size])
        parts = []
        while size:
            part = os.pread(self._fd, size, offset)
            if not part:
                raise OSError(errno.EIO, "the file is shorter than its mapping")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, offset: int, data: Data) -> None:
        """Copy bytes in.  Raises OSError (EACCES for a read-only descriptor)."""
        if not self.writable:
            raise OSError(errno.EACCES, "the descriptor is read-only")
        if self._view is not None:
            self._view[offset : offset + len(data)] = data
            return
        # A write past the end would make the client's file longer.
        if offset + len(data) > os.fstat(self._fd).st_size:
            raise OSError(errno.EIO, "the file is shorter than its mapping")
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self._fd, rest, offset)
            offset += count
            rest = rest[count:]

    def acquire(self) -> None:
        """Count one more user; for those who know that there is one.  From any thread."""
        if not self.try_acquire():
            raise LocalProtocolError("the file has already been let go")

    def try_acquire(self) -> bool:
        """Count one more user; False if the last one has gone.  From any thread."""
        with self._users_lock:
            if self._fd < 0:
                return False
            self._users += 1
            return True

    def release(self) -> bool:
        """Count one less; after the last, let go of the file and return True.  From any thread."""
        with self._users_lock:
            self._users -= 1
            if self._users > 0:
                return False
            descriptor, self._fd = self._fd, -1
        try:
            if self._view is not None and self._map is not None:
                self._view.release()
                self._map.close()
        except BufferError:  # a view outlived its access: it keeps the memory
            pass
        self._view = self._map = None
        close_descriptor(descriptor)
        return True

    @property
    def is_live(self) -> bool:
        """Whether anybody still uses it."""
        return self._fd >= 0
