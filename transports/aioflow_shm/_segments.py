"""The sender's side of memory: segments, and the places in them that are used again and again.

A server has them from its arena, and a client is lent them by its server. A frame may lie in one once both sides have
mapped it. Places come back with the other side's word that its last view is gone, never by themselves; the last one
back is used first, as it is warm. A segment none of whose places is in use makes room for one of another size, and is
given back when the server shares too much and it stays unused.

What has come through a connection and is sent on, as a server does with a batch, is not copied: the other side is told
of the memory in which it lies. Its place goes back when the last view on that side is gone too.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np

from aioflow_shm._limits import (
    FOREIGN_MAX,
    FRAMES_MIN,
    LARGE_BYTES,
    MEMORY_FROM,
    SEGMENT_BYTES,
    SEGMENTS_MAX,
)
from aioflow_shm._memory import map_to_write
from aioflow_shm._places import Place, Segment
from aioflow_shm._views import find_owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioflow.transport import Frame
    from aioflow_shm._arena import Arena
    from aioflow_shm._memory import Memory
    from aioflow_shm._parcels import Reference
    from aioflow_shm._views import View

logger = logging.getLogger("aioflow.shm")

_NUMBERS = 1 << 32


@dataclass(slots=True, eq=False)
class _Foreign:
    """What the other side is told of memory in which something lies that came through a connection.

    Attributes:
        number: Its name on the wire.
        is_mapped: Whether the other side has mapped it.
        is_answered: Whether it has said so, or that it cannot.
    """

    number: int
    is_mapped: bool = False
    is_answered: bool = False


class Segments:
    """The segments of one direction of a connection.

    Args:
        peer: The other side, for messages to people.
        bytes_max: Memory that they take in all, or that of `FRAMES_MIN` frames where these are larger; 0: none.
        arena: Of a server, which makes their memory; None: the other side lends it.
        poison: Whether what comes back is overwritten, so that a view that should be gone is found out.

    Attributes:
        made: Numbers and memory of segments that the other side is to be told of.
        wanted: Numbers and sizes of those that it is to lend.
        dropped: Numbers of segments that it may forget.
    """

    def __init__(self, peer: str, bytes_max: int, arena: Arena | None, *, poison: bool) -> None:
        self._peer = peer
        self._bytes_max = bytes_max
        self._arena = arena
        self._poison = poison
        self._segments: dict[int, Segment] = {}
        self._by_size: dict[int, list[Segment]] = {}
        self._leases: dict[int, tuple[Segment, int]] = {}
        self._foreign: dict[ref[Memory], _Foreign] = {}
        self._passed: dict[int, View] = {}  # leases of what came through another connection
        self._next_segment = 0
        self._next_lease = 0
        self._bytes = 0
        self._refused_from = math.inf if bytes_max else 0  # of a frame that is too large, or for which there is none
        self.made: list[tuple[int, Memory]] = []
        self.wanted: list[tuple[int, int]] = []
        self.dropped: list[int] = []

    def are_awaited(self, frames: Sequence[Frame], sizes: Sequence[int]) -> bool:
        """Whether there will be places for frames as soon as the other side has answered, which it is asked here."""
        is_awaited = False
        copies: Counter[int] = Counter()
        for frame, size in zip(frames, sizes, strict=True):
            if size < MEMORY_FROM or self._is_refused(size):
                continue
            owner, _ = find_owner(frame)
            if isinstance(owner, Place):
                if self._is_own(owner):
                    is_awaited |= not owner.segment.is_mapped
                    continue
            elif owner is not None:
                foreign = self._foreign_of(owner)
                if foreign is not None and (foreign.is_mapped or not foreign.is_answered):
                    is_awaited |= not foreign.is_mapped
                    continue
            copies[_place_bytes(size)] += 1
        for place_bytes, count in copies.items():
            is_awaited |= self._are_coming(place_bytes, count)
        return is_awaited

    def _are_coming(self, place_bytes: int, count: int) -> bool:
        """Whether some of so many places of one size will be there when the other side has mapped them."""
        segments = self._collected(place_bytes)
        count -= sum(len(segment.free) for segment in segments if segment.is_mapped)
        coming = sum(len(segment.free) for segment in segments if not segment.is_mapped)
        while coming < count and (segment := self._make(place_bytes)) is not None:
            coming += len(segment.free)
        return count > 0 and coming > 0

    def put(self, frame: Frame, size: int) -> Reference | None:
        """Return where a frame lies, or to where it was copied; None where it is too small, or there is no place.

        A frame that was written in a place, or that lies in a segment of the other direction or of another connection,
        stays there.
        """
        if size < MEMORY_FROM or self._is_refused(size):
            return None
        owner, start = find_owner(frame)
        if isinstance(owner, Place):
            if self._is_own(owner) and owner.segment.is_mapped:
                owner.segment.share(owner.start)
                if owner.is_draft:
                    _copy(frame, owner.segment, owner.start + start, size)
                return self._lease(owner.segment, owner.start, owner.start + start, size)
        elif owner is not None and (reference := self._pass_on(owner, start, size)) is not None:
            return reference
        place_bytes = _place_bytes(size)
        segments = self._collected(place_bytes)
        segment = next((segment for segment in reversed(segments) if segment.free and segment.is_mapped), None)
        if segment is None:
            return None
        start = segment.take()
        _copy(frame, segment, start, size)
        return self._lease(segment, start, start, size)

    def allocate(self, size: int) -> memoryview | None:
        """Return a place to write in; None where so much is too small to go in memory, or there is no place.

        What is written in one before its segment was lent is copied there when it is sent.
        """
        if size < MEMORY_FROM or self._is_refused(size):
            return None
        place_bytes = _place_bytes(size)
        segments = [segment for segment in self._collected(place_bytes) if segment.free]
        segment = max(reversed(segments), key=attrgetter("is_writable"), default=None) or self._make(place_bytes)
        return None if segment is None else segment.take_place(size).data

    @property
    def has_any(self) -> bool:
        """Whether the other side has any of this memory, or is still to be told that it is gone."""
        return bool(self._segments or self._foreign or self.dropped)

    def trim(self, unused_s: float, nbytes: float = math.inf) -> None:
        """Drop segments that were not in use for so long, the longest unused first, until they have so many bytes."""
        by_time = sorted(((each.unused_s, each) for each in self._segments.values()), key=itemgetter(0), reverse=True)
        for unused, segment in by_time:
            if unused < unused_s or nbytes <= 0:
                break
            nbytes -= segment.size
            self._give_back(segment)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Give back segments that are not in use, of those that are asked for."""
        for number in numbers:
            segment = self._segments.get(number)
            if segment is not None and segment.is_unused:
                self._give_back(segment)

    def lent(self, number: int, fd: int) -> bool:
        """Write in a segment from now on; say whether it was wanted. The descriptor is closed by who gave it."""
        segment = self._segments.get(number)
        if segment is None or segment.is_mapped or self._arena is not None:
            return False
        try:
            segment.writable = map_to_write(fd, segment.size)
        except OSError as error:
            self._lack(segment.place_bytes, str(error))
            self._drop(segment)
        else:
            segment.map()
        return True

    def answered(self, number: int, *, is_mapped: bool) -> None:
        """Learn whether the other side has mapped a segment; once it could not, or lends none, no more is made."""
        segment = self._segments.get(number)
        if segment is None:
            for foreign in tuple(self._foreign.values()):
                if foreign.number == number:
                    foreign.is_mapped, foreign.is_answered = is_mapped, True
            return
        if is_mapped and segment.is_writable:
            segment.map()
            return
        logger.info("%s cannot share memory, or as much: large frames to it travel in packets", self._peer)
        self._refused_from = segment.place_bytes
        self._forget(segment)

    def end_lease(self, lease: int, *, is_kept: bool) -> None:
        """Have a place back; where its memory is to be kept as it is, its segment is used no more."""
        if (view := self._passed.pop(lease, None)) is not None:
            if is_kept:
                view.keep()
            return
        segment, start = self._leases.pop(lease, (None, 0))
        if segment is None or segment.number not in self._segments:
            return
        if is_kept:
            self._drop(segment)
            return
        segment.give_back(start, poison=self._poison)

    def close(self) -> None:
        """Let go of everything; what the other side may still see is not used again."""
        self.trim(0)
        for view in self._passed.values():
            view.keep()
        self._passed.clear()
        self._foreign.clear()
        self._segments.clear()
        self._by_size.clear()
        self._leases.clear()
        self.made.clear()
        self.wanted.clear()
        self._refused_from = 0

    def _is_refused(self, size: int) -> bool:
        """Whether there was no memory for so large a frame: a smaller one may find some."""
        return _place_bytes(size) >= self._refused_from

    def _collected(self, place_bytes: int) -> list[Segment]:
        """Return the segments with places of a size, with what came back of them."""
        segments = self._by_size.get(place_bytes, [])
        for segment in segments:
            segment.collect(poison=self._poison)
        return segments

    def _is_own(self, place: Place) -> bool:
        """Whether a place is in a segment of this connection which is still in use."""
        return self._segments.get(place.segment.number) is place.segment

    def _lease(self, segment: Segment, place: int, start: int, size: int) -> Reference:
        """Return a reference to what lies in a place, which is in use until its lease ends."""
        lease = self._number_lease()
        self._leases[lease] = (segment, place)
        return segment.number, start, size, lease

    def _make(self, place_bytes: int) -> Segment | None:
        """Make a segment, or have one lent, if there is room for it."""
        size = max(1, SEGMENT_BYTES // place_bytes) * place_bytes
        largest = max((segment.place_bytes for segment in self._segments.values()), default=0)
        if not self._make_room(size, max(self._bytes_max, FRAMES_MIN * max(place_bytes, largest))):
            return None
        number = self._number_segment()
        segment = Segment(number, place_bytes, size)
        if self._arena is None:
            self.wanted.append((number, size))
        else:
            try:
                segment.memory = self._arena.take(size)
                segment.writable = map_to_write(segment.memory.fd, size)
            except OSError as error:
                self._lack(place_bytes, str(error))
                return None
            self.made.append((number, segment.memory))
        self._segments[number] = segment
        self._by_size.setdefault(place_bytes, []).append(segment)
        self._bytes += size
        return segment

    def _lack(self, place_bytes: int, why: str) -> None:
        """Have no frames of that size in memory any more."""
        logger.info("no memory can be shared with %s, large frames travel in packets: %s", self._peer, why)
        self._refused_from = place_bytes

    def _number_segment(self) -> int:
        self._next_segment += 1
        return self._next_segment - 1

    def _number_lease(self) -> int:
        lease = self._next_lease = (self._next_lease + 1) % _NUMBERS
        return lease

    def _pass_on(self, view: View, start: int, size: int) -> Reference | None:
        """Return where a frame lies that came through a connection, if the other side has that memory mapped."""
        foreign = self._foreign_of(view)
        if foreign is None or not foreign.is_mapped:
            return None
        lease = self._number_lease()
        self._passed[lease] = view
        return foreign.number, view.start + start, size, lease

    def _foreign_of(self, view: View) -> _Foreign | None:
        """Return what the other side is told of a view's memory; None where it cannot be told."""
        memory = view.memory
        foreign = self._foreign.get(ref(memory))
        if foreign is None and len(self._foreign) < FOREIGN_MAX:
            foreign = _Foreign(self._number_segment())
            self.made.append((foreign.number, memory))
            self._foreign[ref(memory, self._is_gone)] = foreign
        return foreign

    def _is_gone(self, memory: ref[Memory]) -> None:
        """Have the other side forget memory of which there is nothing left here, in whatever thread."""
        if (foreign := self._foreign.pop(memory, None)) is not None:
            self.dropped.append(foreign.number)

    def _make_room(self, size: int, bytes_max: int) -> bool:
        """Drop segments that are not in use, the oldest first, until there is room for one more."""
        for segment in tuple(self._segments.values()):
            if self._bytes + size <= bytes_max and len(self._segments) < SEGMENTS_MAX:
                return True
            if segment.is_unused:
                self._give_back(segment)
        return self._bytes + size <= bytes_max and len(self._segments) < SEGMENTS_MAX

    def _give_back(self, segment: Segment) -> None:
        """Drop a segment that is not in use: its memory may be used again."""
        self._drop(segment)
        if self._arena is not None and segment.memory is not None:
            self._arena.give_back(segment.memory)

    def _drop(self, segment: Segment) -> None:
        self.dropped.append(segment.number)
        self._forget(segment)

    def _forget(self, segment: Segment) -> None:
        del self._segments[segment.number]
        same = self._by_size[segment.place_bytes]
        same.remove(segment)
        if not same:
            del self._by_size[segment.place_bytes]
        self._bytes -= segment.size


def _copy(frame: Frame, segment: Segment, start: int, size: int) -> None:
    # NumPy lets other threads run meanwhile, a mapping does not: a gigabyte takes longer than a beat may be late.
    segment.array(start, size)[:] = np.frombuffer(frame, np.uint8)


def _place_bytes(size: int) -> int:
    """Round a size up, so that frames of about one size share segments: by a quarter at most, if large by a 64th.

    A writer's groups are large, and a queue full of them takes little more memory than their bytes.
    """
    step = 1 << max((size - 1).bit_length() - (3 if size < LARGE_BYTES else 7), 12)
    return -(-size // step) * step
