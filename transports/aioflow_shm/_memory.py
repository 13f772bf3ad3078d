"""Shared memory as a process has it: who makes it, who maps it to write in it, and who maps it to read."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow_shm._limits import FRAME_BYTES_MAX, SHARE_OF_DESCRIPTORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = np.dtype(np.uint8)

# A segment has room for the largest frame, rounded up.
MEMORY_BYTES_MAX = 2 * FRAME_BYTES_MAX


class Memory:
    """Memory that is there as long as something refers to it.

    Args:
        fd: Its descriptor, which is duplicated.
        size: Its size.

    Attributes:
        fd: A descriptor of it.
        size: Its bytes.
        inode: Its number, in every process that has it.
        used_at: When something in it was in use last, by `time.monotonic`.
        is_kept: Whether it must stay as it is: somebody may see it who will not say until when.

    Raises:
        OSError: It is none, there is no descriptor, or the other side could take some of it away, which would end who
            reads there.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = -1
        check_descriptor(fd)
        if not 0 < size <= min(MEMORY_BYTES_MAX, os.fstat(fd).st_size):
            raise OSError(f"memory of {size} bytes")
        if not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise OSError("memory that can shrink")
        self.fd = os.dup(fd)
        self.size = size
        self.inode = os.fstat(fd).st_ino
        self.used_at = 0.0
        self.is_kept = False
        self._readable: mmap.mmap | None = None

    def __del__(self) -> None:
        """Close the descriptor; the memory goes with its last view."""
        if self.fd >= 0:
            os.close(self.fd)

    def map_to_read(self) -> None:
        """Map it, once; its pages as they are read: whoever passes it on never touches it.

        Raises:
            OSError: It cannot be mapped.
        """
        if self._readable is None:
            self._readable = mmap.mmap(self.fd, self.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)

    def array(self, start: int, size: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        """Return some of it, to be read."""
        assert self._readable is not None, "it was not mapped"
        return np.frombuffer(self._readable, dtype, size // dtype.itemsize, start)


def make_memory(size: int) -> Memory:
    """Make memory that neither side can shrink or grow; its pages are still to be reserved.

    Raises:
        OSError: There is none, or no descriptor.
    """
    fd = os.memfd_create("aioflow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return Memory(fd, size)
    finally:
        os.close(fd)


def map_to_write(fd: int, size: int) -> mmap.mmap:
    """Map memory to write in it, with all its pages reserved.

    Raises:
        OSError: There is none, or no descriptor.
    """
    check_descriptor(fd)
    os.posix_fallocate(fd, 0, size)  # so that what is missing is known now, and not at the first touch
    # Its pages are mapped as they are written: all at once, an event loop stood three times as long.
    memory = mmap.mmap(fd, size, flags=mmap.MAP_SHARED)
    memory.madvise(mmap.MADV_DONTFORK)  # a child, which does not use it, would keep what is given back
    return memory


def check_descriptor(fd: int) -> None:
    """Leave the upper half of the descriptors that are allowed to others.

    Raises:
        OSError: This one is among them.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and fd >= limit // SHARE_OF_DESCRIPTORS:
        raise OSError(f"descriptor {fd} of {limit} is in use; raise ulimit -n")
