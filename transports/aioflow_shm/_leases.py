"""The receiver's side of memory: what it has mapped, and the views of it that are still in use.

With the last that refers to a view goes its lease, in whichever thread that happens.
"""

from __future__ import annotations

import math
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from aioflow_shm._forks import current_generation, fork_count
from aioflow_shm._limits import ACTIVE_S, CLIENT_BYTES, FRAME_BYTES_MAX, LENT_BYTES_MAX, MAPPED_MAX
from aioflow_shm._memory import Memory
from aioflow_shm._parcels import MalformedError
from aioflow_shm._pieces import ReceivedPieces
from aioflow_shm._views import Lease, View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioflow_shm._arena import Arena


class Leases:
    """What one direction of a connection has mapped, what of it was lent, and which of its places are in use.

    Args:
        arena: Of a server, whose memory the other side writes in; None: in its own, or what it was lent.
    """

    def __init__(self, arena: Arena | None = None) -> None:
        self._arena = arena
        self._segments: dict[int, Memory] = {}
        self._lent: set[int] = set()  # those that are the arena's
        self._leases: dict[int, Lease] = {}
        self._ended: deque[Lease] = deque()
        self._released: dict[int, list[int]] = {}  # pieces of leases that have not ended
        self._sent_at = -math.inf

    @property
    def has_ended(self) -> bool:
        """Whether there is something to take."""
        return bool(self._ended or self._released)

    @property
    def has_any(self) -> bool:
        """Whether a segment is mapped."""
        return bool(self._segments)

    def unused(self, unused_s: float, *, wants_others: bool = False) -> list[tuple[float, int, int]]:
        """Return of what was lent the segments in which nothing has been in use for so long.

        Without those that were used last, of who has sent something in the last `ACTIVE_S`, as it will go on; unless it
        wants others, as these are not of the size that it needs.

        Returns:
            Since when, by `time.monotonic`, how many bytes, and the segment's number.
        """
        used, now = self._used(), monotonic()
        lent = [(self._segments[number], number) for number in self._lent]
        unused = sorted((memory.used_at, memory.size, number) for memory, number in lent if memory not in used)
        left_bytes = CLIENT_BYTES if now - self._sent_at < ACTIVE_S and not wants_others else 0
        while unused and (left_bytes := left_bytes - unused[-1][1]) >= 0:
            unused.pop()
        return [each for each in unused if each[0] <= now - unused_s]

    def use(self, numbers: Iterable[int]) -> None:
        """Take note that segments are in use on the other side, if they are there."""
        for number in numbers:
            if (memory := self._segments.get(number)) is not None:
                memory.used_at = monotonic()

    def can_take(self, number: int) -> bool:
        """Whether there may be one more segment, of this number."""
        return number not in self._segments and len(self._segments) < MAPPED_MAX

    def can_lend(self, number: int, size: int) -> bool:
        """Whether there may be one more to write in, of so many bytes."""
        return self.can_take(number) and size + sum(self._segments[each].size for each in self._lent) <= LENT_BYTES_MAX

    def map(self, number: int, size: int, fd: int) -> bool:
        """Map a segment for reading; say whether that was possible. The descriptor is closed by who gave it."""
        if not self.can_take(number):
            return False
        try:
            memory = Memory(fd, size)
            memory.map_to_read()
        except OSError:
            return False
        self._segments[number] = memory
        if self._arena is not None:
            self._arena.known.add(memory)
        return True

    def lend(self, number: int, memory: Memory) -> None:
        """Let the other side write in a segment.

        Raises:
            OSError: It cannot be mapped for reading.
        """
        memory.map_to_read()
        memory.used_at = monotonic()
        self._segments[number] = memory
        self._lent.add(number)

    def unmap(self, number: int) -> None:
        """Forget a segment; it goes with the last view of it, or back to the arena if there is none."""
        memory = self._segments.pop(number, None)
        if memory is not None and number in self._lent:
            self._lent.remove(number)
            if memory not in self._used():
                assert self._arena is not None
                self._arena.give_back(memory)

    def view(self, segment: int, start: int, size: int, lease: int) -> memoryview:
        """Return a view of a place.

        Raises:
            MalformedError: There is no such place, or it is in use.
        """
        memory = self._segments.get(segment)
        if memory is None or start + size > memory.size or not size or lease in self._leases:
            raise MalformedError(f"a frame of {size} bytes at {start} of segment {segment}, which is not there")
        self._sent_at = monotonic()
        view = View.of(memory, start, size)
        view.lease = self._leases[lease] = Lease(view, self._end, lease)
        return view.data

    def view_pieces(self, size: int, lease: int, *references: int) -> ReceivedPieces:
        """Return pieces of one size, given where they are: the segment of each, and where it begins there.

        Raises:
            MalformedError: There is no such place, or the lease is in use.
        """
        numbers, starts = references[::2], references[1::2]
        memories = {number: self._segments.get(number) for number in set(numbers)}
        ends = {number: 0 if memory is None else memory.size - size for number, memory in memories.items()}
        if not numbers or not size or lease in self._leases or None in memories.values():
            raise MalformedError(f"{len(numbers)} pieces of {size} bytes, of which some are not there")
        if any(start > ends[number] for number, start in zip(numbers, starts, strict=True)):
            raise MalformedError(f"pieces of {size} bytes beyond the end of their segments")
        if len(starts) * size > FRAME_BYTES_MAX:
            raise MalformedError(f"{len(starts)} pieces of {size} bytes, which is more than a frame has")
        self._sent_at = monotonic()
        received = ReceivedPieces(size, [memories[number] for number in numbers], starts, self._released)
        received.lease = self._leases[lease] = Lease(received, self._end, lease)
        return received

    def take_released(self) -> list[int]:
        """Return what has been let go of since the last call: for each lease its number, how many pieces, and which."""
        taken: list[int] = []
        if not self._released:
            return taken
        forks = fork_count()
        while self._released:
            number, pieces = self._released.popitem()
            lease = self._leases.get(number)
            if lease is not None and lease.forks == forks:  # else all of it is told when it ends
                taken += (number, len(pieces), *pieces)
        return taken

    def take_ended(self) -> tuple[list[int], list[int]]:
        """Return the leases that have ended since the last call: whose memory may be used again, and whose may not."""
        ended: list[int] = []
        kept: list[int] = []
        forks = fork_count()
        while self._ended:
            lease = self._ended.popleft()
            if lease.forks == forks:
                ended.append(lease.number)
            else:  # a child that was forked meanwhile still sees the memory
                kept.append(lease.number)
                for memory in lease.memories:
                    memory.is_kept = True
        return ended, kept

    def close(self) -> None:
        """Forget everything; the memory goes with the last view of it."""
        self._segments.clear()
        self._lent.clear()
        self._leases.clear()
        self._ended.clear()
        self._released.clear()

    def _used(self) -> set[Memory]:
        """Return the memory in which there are views that are in use."""
        views = [lease() for lease in tuple(self._leases.values())]
        return {memory for view in views if view is not None for memory in view.memories}

    def _end(self, lease: Lease) -> None:
        """Note an end, in whatever thread: of these calls none can be interrupted."""
        if lease.generation == current_generation() and self._leases.pop(lease.number, None) is not None:
            now = monotonic()
            for memory in lease.memories:
                memory.used_at = now
            self._ended.append(lease)
