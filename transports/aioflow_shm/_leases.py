"""The receiver's side of memory: the segments that it has mapped, and the views that are still in use.

A view is of an array that nobody else has. Whoever keeps memory of the view, through however many views and arrays,
keeps that array; with it goes the lease, in whichever thread that happens.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import deque
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import numpy as np

from aioflow_shm._forks import current_generation, fork_count
from aioflow_shm._limits import FRAME_BYTES_MAX, SEGMENTS_MAX
from aioflow_shm._parcels import MalformedError
from aioflow_shm._segments import check_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]


class _Lease(ref["Bytes"]):
    """Tells when an array is gone."""

    __slots__ = ("forks", "generation", "number")

    def __new__(cls, array: Bytes, callback: Callable[[Any], None], number: int) -> Self:  # noqa: ARG004
        """Make a weak reference, which knows nothing of numbers."""
        return super().__new__(cls, array, callback)

    def __init__(self, array: Bytes, callback: Callable[[Any], None], number: int) -> None:  # noqa: ARG002
        self.number = number
        self.forks = fork_count()
        self.generation = current_generation()


class Leases:
    """What one direction of a connection has mapped, and which of its places are in use."""

    def __init__(self) -> None:
        self._segments: dict[int, mmap.mmap] = {}
        self._leases: dict[int, _Lease] = {}
        self._ended: deque[_Lease] = deque()

    def map(self, number: int, size: int, fd: int) -> bool:
        """Map a segment for reading; say whether that was possible. The descriptor is closed by who gave it."""
        try:
            check_descriptor(fd)
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            is_good = seals & fcntl.F_SEAL_SHRINK and 0 < size <= 2 * FRAME_BYTES_MAX and size <= os.fstat(fd).st_size
            if not is_good or number in self._segments or len(self._segments) >= SEGMENTS_MAX:
                return False
            self._segments[number] = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ)
        except OSError:
            return False
        return True

    def unmap(self, number: int) -> None:
        """Forget a segment; it goes with the last view of it."""
        self._segments.pop(number, None)

    def view(self, segment: int, start: int, size: int, lease: int) -> memoryview:
        """Return a view of a place.

        Raises:
            MalformedError: There is no such place, or it is in use.
        """
        memory = self._segments.get(segment)
        if memory is None or start + size > len(memory) or not size or lease in self._leases:
            raise MalformedError(f"a frame of {size} bytes at {start} of segment {segment}, which is not there")
        array = np.frombuffer(memory, np.uint8, size, start)
        self._leases[lease] = _Lease(array, self._end, lease)
        return array.data

    def take_ended(self) -> tuple[list[int], list[int]]:
        """Return the leases that have ended since the last call: whose memory may be used again, and whose may not."""
        ended: list[int] = []
        kept: list[int] = []
        forks = fork_count()
        while self._ended:
            lease = self._ended.popleft()
            # A child that was forked meanwhile still sees the memory.
            (ended if lease.forks == forks else kept).append(lease.number)
        return ended, kept

    @property
    def has_ended(self) -> bool:
        """Whether there is something to take."""
        return bool(self._ended)

    def close(self) -> None:
        """Forget everything; the memory goes with the last view of it."""
        self._segments.clear()
        self._leases.clear()
        self._ended.clear()

    def _end(self, lease: _Lease) -> None:
        """Note an end, in whatever thread: of these calls none can be interrupted."""
        if lease.generation == current_generation() and self._leases.pop(lease.number, None) is not None:
            self._ended.append(lease)
