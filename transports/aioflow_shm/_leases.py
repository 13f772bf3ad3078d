"""The receiver's side of memory: the segments that it has mapped, and the views that are still in use.

With the last that refers to a view goes its lease, in whichever thread that happens.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from weakref import WeakSet

from aioflow_shm._forks import current_generation, fork_count
from aioflow_shm._limits import FRAME_BYTES_MAX, MAPPED_MAX
from aioflow_shm._parcels import MalformedError
from aioflow_shm._views import Lease, Mapping, View, check_descriptor


class Leases:
    """What one direction of a connection has mapped, and which of its places are in use.

    Args:
        mapped: Is told of what is mapped, and keeps it for as long as there are views, also after the connection.
    """

    def __init__(self, mapped: WeakSet[Mapping] | None = None) -> None:
        self._mapped: WeakSet[Mapping] = WeakSet() if mapped is None else mapped
        self._segments: dict[int, Mapping] = {}
        self._leases: dict[int, Lease] = {}
        self._ended: deque[Lease] = deque()

    @property
    def has_ended(self) -> bool:
        """Whether there is something to take."""
        return bool(self._ended)

    @property
    def unused_bytes(self) -> int:
        """Of segments in which there is no view that is in use."""
        views = [lease() for lease in tuple(self._leases.values())]
        used = {view.mapping for view in views if view is not None}
        return sum(len(mapping.memory) for mapping in self._segments.values() if mapping not in used)

    @property
    def has_any(self) -> bool:
        """Whether a segment is mapped."""
        return bool(self._segments)

    def map(self, number: int, size: int, fd: int) -> bool:
        """Map a segment for reading; say whether that was possible. The descriptor is closed by who gave it."""
        try:
            check_descriptor(fd)
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            is_good = seals & fcntl.F_SEAL_SHRINK and 0 < size <= 2 * FRAME_BYTES_MAX and size <= os.fstat(fd).st_size
            if not is_good or number in self._segments or len(self._segments) >= MAPPED_MAX:
                return False
            mapping = self._segments[number] = Mapping(fd, size)
            self._mapped.add(mapping)
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
        mapping = self._segments.get(segment)
        if mapping is None or start + size > len(mapping.memory) or not size or lease in self._leases:
            raise MalformedError(f"a frame of {size} bytes at {start} of segment {segment}, which is not there")
        view = View.of(mapping, start, size)
        view.lease = self._leases[lease] = Lease(view, self._end, lease)
        return view.data

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

    def close(self) -> None:
        """Forget everything; the memory goes with the last view of it."""
        self._segments.clear()
        self._leases.clear()
        self._ended.clear()

    def _end(self, lease: Lease) -> None:
        """Note an end, in whatever thread: of these calls none can be interrupted."""
        if lease.generation == current_generation() and self._leases.pop(lease.number, None) is not None:
            self._ended.append(lease)
