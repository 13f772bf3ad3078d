"""Which segments a sender has: those that are lent or made, what they are used for, and when they are given back.

A segment none of whose places is in use gets places of another size when those are needed, makes room for one that is
larger, and is given back when the server shares too much and it stays unused.
"""

from __future__ import annotations

import logging
import math
from operator import itemgetter
from typing import TYPE_CHECKING

from aioflow_shm._limits import (
    ANY_BYTES_MAX,
    ANY_SHARE,
    COPIED_BYTES_MAX,
    FIRST_BYTES,
    FRAMES_MIN,
    LARGE_BYTES,
    MANY_SEGMENTS,
    RECENT_S,
    SEGMENT_BYTES,
    SEGMENTS_MAX,
    SHARED_BYTES,
    UNUSED_SHARE,
    UNUSED_SHARE_OWN,
)
from aioflow_shm._memory import map_to_write
from aioflow_shm._places import ANY_SIZE, AnySegment, Segment, recut, round_up

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Sequence

    from aioflow_shm._arena import Arena
    from aioflow_shm._memory import Memory

logger = logging.getLogger("aioflow.shm")


class Pool:
    """The segments of one direction of a connection.

    Args:
        peer: The other side, for messages to people.
        bytes_max: Memory that they take in all, or that of `FRAMES_MIN` frames where these are larger; 0: none.
        arena: Of a server, which makes their memory; None: the other side lends it.
        number: Numbers the next one.
        gone: Places of which no array is left on this side.
        poison: Whether what comes back is overwritten.

    Attributes:
        made: Numbers and memory of segments that the other side is to be told of.
        wanted: Numbers and sizes of those that it is to lend.
        dropped: Numbers of segments that it may forget.
    """

    def __init__(
        self,
        peer: str,
        bytes_max: int,
        arena: Arena | None,
        number: Callable[[], int],
        gone: deque[tuple[int, int]],
        *,
        poison: bool,
    ) -> None:
        self._peer = peer
        self._bytes_max = bytes_max
        self._arena = arena
        self._number = number
        self._gone = gone
        self._poison = poison
        self._segments: dict[int, Segment] = {}
        self._by_kind: dict[int, list[Segment]] = {}
        self._bytes = 0
        self._refused_from = math.inf if bytes_max else 0  # of a frame that is too large, or for which there is none
        self.made: list[tuple[int, Memory]] = []
        self.wanted: list[tuple[int, int]] = []
        self.dropped: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._segments)

    def has(self, segment: Segment) -> bool:
        """Whether a segment is still in use."""
        return self._segments.get(segment.number) is segment

    def is_refused(self, size: int) -> bool:
        """Whether there was no memory for so large a frame: a smaller one may find some."""
        return round_up(size) >= self._refused_from

    def kind_of(self, size: int) -> int:
        """Return the kind of the places that frames of some size are copied to: of that size, if there are any."""
        place_bytes = round_up(size)
        return place_bytes if size >= COPIED_BYTES_MAX or place_bytes in self._by_kind else ANY_SIZE

    def of_kind(self, kind: int) -> Sequence[Segment]:
        """Return the segments with places of a kind, the first one first."""
        self.collect()
        return self._by_kind.get(kind, ())

    def collect(self) -> None:
        """Take back the places of which no array is left on this side."""
        while self._gone:
            number, start = self._gone.popleft()
            if (segment := self._segments.get(number)) is not None:
                segment.give_back(start, poison=self._poison)

    def have_back(self, segment: Segment, start: int, *, is_kept: bool = False) -> None:
        """Have a place back; where its memory is to be kept as it is, its segment is used no more."""
        if segment.number not in self._segments:
            return
        if is_kept:
            self._drop(segment)
            return
        segment.give_back(start, poison=self._poison)

    def make(self, kind: int, place_bytes: int) -> Segment | None:
        """Return a segment with places of some size: one that is not in use, or one that is made or to be lent."""
        if (unused := self._find_unused(kind, place_bytes)) is not None:
            self._forget(unused)
            return self._note(recut(unused, kind, place_bytes))
        size = self._segment_bytes(kind, place_bytes)
        if self._arena is not None:  # what others have to give back is not waited for
            self.trim(RECENT_S, self._arena.nbytes - self._arena.free_bytes + size - SHARED_BYTES)
        largest = max((segment.place_bytes for segment in self._segments.values()), default=0)
        if not self._make_room(size, max(self._bytes_max, FRAMES_MIN * max(place_bytes, largest))):
            return None
        number = self._number()
        segment = (AnySegment if kind == ANY_SIZE else Segment)(number, place_bytes, size, self._gone)
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
        return self._note(segment)

    def _segment_bytes(self, kind: int, place_bytes: int) -> int:
        """Return how large the next segment is: as some frames of this size, if else much of it had room for none."""
        same = self._by_kind.get(kind, ())
        if kind == ANY_SIZE:
            share = sum([segment.size for segment in same]) // ANY_SHARE
            nbytes = min(ANY_BYTES_MAX, max(FIRST_BYTES, 1 << share.bit_length() >> 1))
            if nbytes % place_bytes <= UNUSED_SHARE * nbytes:
                return nbytes
            return -(-nbytes // place_bytes) * place_bytes
        nbytes = min(SEGMENT_BYTES, (1 + len(same)) * FIRST_BYTES)
        places = nbytes // place_bytes if len(same) <= MANY_SEGMENTS else -(-nbytes // place_bytes)
        return max(1, places) * place_bytes

    def trim(self, unused_s: float, nbytes: float = math.inf) -> None:
        """Drop segments that were not in use for so long, the longest unused first, until they have so many bytes."""
        self.collect()
        by_time = sorted(((each.unused_s, each) for each in self._segments.values()), key=itemgetter(0), reverse=True)
        for unused, segment in by_time:
            if unused < unused_s or nbytes <= 0:
                break
            nbytes -= segment.size
            self._give_back(segment)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Give back segments that are not in use, of those that are asked for."""
        self.collect()
        for number in numbers:
            segment = self._segments.get(number)
            if segment is not None and segment.is_unused:
                self._give_back(segment)

    def lent(self, number: int, fd: int) -> bool:
        """Write in a segment from now on; say whether it was wanted. Its descriptor, -1 for none, its giver closes."""
        segment = self._segments.get(number)
        if segment is None or segment.is_mapped or self._arena is not None:
            return False
        try:
            if fd < 0:
                raise OSError("it came without a descriptor; raise ulimit -n")  # noqa: TRY301 - as any other lack
            segment.writable = map_to_write(fd, segment.size)
        except OSError as error:
            self._lack(segment.place_bytes, str(error))
            self._drop(segment)
        else:
            segment.map()
        return True

    def answered(self, number: int, *, is_mapped: bool) -> bool:
        """Learn whether the other side has mapped a segment; once it could not, or lends none, no more is made.

        Returns:
            Whether it is one of these.
        """
        segment = self._segments.get(number)
        if segment is None:
            return False
        if is_mapped and segment.is_writable:
            segment.map()
            return True
        logger.info("%s cannot share memory, or as much: large frames to it travel in packets", self._peer)
        self._refused_from = min(self._refused_from, segment.place_bytes)
        self._forget(segment)
        return True

    def close(self) -> None:
        """Let go of everything; what the other side may still see is not used again."""
        self.trim(0)
        self._segments.clear()
        self._by_kind.clear()
        self.made.clear()
        self.wanted.clear()
        self._refused_from = 0

    def _find_unused(self, kind: int, place_bytes: int) -> Segment | None:
        """Return the unused segment of another kind of which places of some size leave the least, if that is little."""
        share = UNUSED_SHARE if self._arena is None else UNUSED_SHARE_OWN
        found, least = None, math.inf
        for segment in self._segments.values():
            if segment.kind == kind or not place_bytes <= segment.size < SEGMENT_BYTES + place_bytes:
                continue
            # Of a size that is large there may be no second frame.
            rest = segment.size - place_bytes if place_bytes >= LARGE_BYTES else segment.size % place_bytes
            rest = 0 if kind == ANY_SIZE else rest
            if rest <= share * segment.size and rest < least and segment.is_unused:
                found, least = segment, rest
        return found

    def _note(self, segment: Segment) -> Segment:
        self._segments[segment.number] = segment
        self._by_kind.setdefault(segment.kind, []).append(segment)
        self._bytes += segment.size
        return segment

    def _lack(self, place_bytes: int, why: str) -> None:
        """Have no frames of that size in memory any more."""
        logger.info("no memory can be shared with %s, large frames travel in packets: %s", self._peer, why)
        self._refused_from = min(self._refused_from, place_bytes)

    def _make_room(self, size: int, bytes_max: int) -> bool:
        """Drop segments that are not in use, the oldest first, until there is room for one more."""
        self.collect()
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
        same = self._by_kind[segment.kind]
        same.remove(segment)
        if not same:
            del self._by_kind[segment.kind]
        self._bytes -= segment.size
