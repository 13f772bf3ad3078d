"""The sender's side of memory: segments, and the places in them that are used again and again.

A server has them from its arena, and a client is lent them by its server. A frame may lie in one once both sides have
mapped it. Places come back with the other side's word that its last view is gone, never by themselves; the last one
back is used first, as it is warm. A segment none of whose places is in use makes room for one of another size, and is
given back when the server shares too much and it stays unused.

What has come through a connection and is sent on, as a server does with a batch, is not copied (`_passing`).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter, deque
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from aioflow.transport import Pieces
from aioflow_shm._limits import (
    FIRST_BYTES,
    FRAMES_MIN,
    LARGE_BYTES,
    MEMORY_FROM,
    PIECE_FROM,
    RECENT_S,
    SEGMENT_BYTES,
    SEGMENTS_MAX,
    SHARED_BYTES,
)
from aioflow_shm._memory import map_to_write
from aioflow_shm._passing import Passing
from aioflow_shm._pieces import PlacedPieces, PlacesGone
from aioflow_shm._places import Place, Segment
from aioflow_shm._views import find_owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioflow.transport import AnyFrame, Frame
    from aioflow_shm._arena import Arena
    from aioflow_shm._memory import Memory
    from aioflow_shm._parcels import Reference

logger = logging.getLogger("aioflow.shm")

_NUMBERS = 1 << 32


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
        self._gone: deque[tuple[int, int]] = deque()  # places of which no array is left on this side
        self._leases: dict[int, tuple[Segment, int]] = {}
        self._pieces: dict[int, list[tuple[Segment, int] | None]] = {}  # leases of pieces that were not given back
        self._allocated: dict[int, PlacesGone] = {}  # pieces that somebody refers to, by the identity of what tells
        self._number_segment = itertools.count().__next__
        self._number_lease = (number % _NUMBERS for number in itertools.count(1)).__next__
        self._bytes = 0
        self._refused_from = math.inf if bytes_max else 0  # of a frame that is too large, or for which there is none
        self.made: list[tuple[int, Memory]] = []
        self.wanted: list[tuple[int, int]] = []
        self.dropped: list[int] = []
        self._passing = Passing(self._number_segment, self.made, self.dropped)

    def are_awaited(self, frames: Sequence[AnyFrame], sizes: Sequence[int], *, asks: bool = True) -> bool:
        """Whether there will be places for frames as soon as the other side has answered; `asks` it for them."""
        is_awaited = False
        copies: Counter[int] = Counter()
        for frame, size in zip(frames, sizes, strict=True):
            if size < MEMORY_FROM or self._is_refused(size):
                continue
            if isinstance(frame, Pieces):
                is_awaited |= self._are_own(frame) and not all(segment.is_mapped for segment, _ in frame.places)
                continue
            owner, _ = find_owner(frame)
            if isinstance(owner, Place):
                if self._is_own(owner):
                    is_awaited |= not owner.segment.is_mapped
                    continue
            elif owner is not None:
                foreign = self._passing.find(owner)
                if foreign is not None and (foreign.is_mapped or not foreign.is_answered):
                    is_awaited |= not foreign.is_mapped
                    continue
            copies[self._places_of(size)] += 1
        for place_bytes, count in copies.items():
            is_awaited |= self._are_coming(place_bytes, count, asks=asks)
        return is_awaited

    def _are_coming(self, place_bytes: int, count: int, *, asks: bool) -> bool:
        """Whether some of so many places of one size will be there when the other side has mapped them."""
        self._collect()
        segments = self._by_size.get(place_bytes, [])
        count -= sum(len(segment.free) for segment in segments if segment.is_mapped)
        coming = sum(len(segment.free) for segment in segments if not segment.is_mapped)
        while asks and coming < count and (segment := self._make(place_bytes)) is not None:
            coming += len(segment.free)
        return count > 0 and coming > 0

    def put(self, frame: AnyFrame, size: int) -> Reference | None:
        """Return where a frame lies, or to where it was copied; None where it is too small, or there is no place.

        A frame that was written in a place, or that lies in a segment of the other direction or of another connection,
        stays there.
        """
        if isinstance(frame, Pieces):
            return self._put_pieces(frame)
        if size < MEMORY_FROM or self._is_refused(size):
            return None
        owner, start = find_owner(frame)
        if isinstance(owner, Place):
            if self._is_own(owner) and owner.segment.is_mapped:
                owner.segment.share(owner.start)
                if owner.is_draft:
                    _copy(frame, owner.segment, owner.start + start, size)
                return self._lease(owner.segment, owner.start, owner.start + start, size)
        elif owner is not None:
            reference = self._passing.put(owner, start, size, self._number_lease())
            if reference is not None:
                return reference
        self._collect()
        segments = self._by_size.get(self._places_of(size), [])
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
        self._collect()
        place_bytes = _place_bytes(size, is_usual=True)
        free = (segment for segment in reversed(self._by_size.get(place_bytes, [])) if segment.free)
        segment = max(free, key=attrgetter("is_writable"), default=None) or self._make(place_bytes)
        return None if segment is None else segment.take_place(size).data

    def allocate_pieces(self, size: int, count: int) -> PlacedPieces | None:
        """Return pieces to write in, each in a place of its own; None as `allocate`."""
        if size < PIECE_FROM or self._is_refused(size):
            return None
        self._collect()
        place_bytes = _place_bytes(size, is_usual=True)
        segments = sorted(self._by_size.get(place_bytes, ()), key=attrgetter("is_writable", "number"))
        places: list[tuple[Segment, int]] = []
        while len(places) < count:
            segment = segments.pop() if segments else self._make(place_bytes)
            if segment is None:
                self._gone.extend((segment.number, start) for segment, start in places)
                return None
            while segment.free and len(places) < count:
                places.append((segment, segment.take()))
        pieces = PlacedPieces.of(size, places)
        gone = PlacesGone(pieces, self._note_gone)
        self._allocated[id(gone)] = gone
        return pieces

    def _note_gone(self, gone: PlacesGone) -> None:
        """Note that nobody refers to pieces any more, in whatever thread: of these calls none can be interrupted."""
        if self._allocated.pop(id(gone), None) is not None:
            self._gone.extend(gone.places)

    def _put_pieces(self, pieces: Pieces) -> Reference | None:
        """Return where pieces lie; None where that is not memory that the other side has mapped."""
        if not (self._are_own(pieces) and all(segment.is_mapped for segment, _ in pieces.places)):
            return None
        lease = self._number_lease()
        reference = [pieces.count, pieces.size, lease]
        for (segment, start), draft in zip(pieces.places, pieces.drafts, strict=True):
            segment.share(start)
            if draft is not None:
                _copy(draft.data, segment, start, pieces.size)
            reference += (segment.number, start)
        self._pieces[lease] = [*pieces.places]
        return (*reference,)

    def end_pieces(self, lease: int, numbers: Iterable[int]) -> None:
        """Have some pieces of a lease back."""
        places = self._pieces.get(lease, [])
        for number in numbers:
            place = places[number] if number < len(places) else None
            if place is not None:
                places[number] = None
                self._have_back(*place)

    @property
    def has_any(self) -> bool:
        """Whether the other side has any of this memory, or is still to be told that it is gone."""
        return bool(self._segments or self._passing.has_any or self.dropped)

    def trim(self, unused_s: float, nbytes: float = math.inf) -> None:
        """Drop segments that were not in use for so long, the longest unused first, until they have so many bytes."""
        self._collect()
        by_time = sorted(((each.unused_s, each) for each in self._segments.values()), key=itemgetter(0), reverse=True)
        for unused, segment in by_time:
            if unused < unused_s or nbytes <= 0:
                break
            nbytes -= segment.size
            self._give_back(segment)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Give back segments that are not in use, of those that are asked for."""
        self._collect()
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
            self._passing.answered(number, is_mapped=is_mapped)
            return
        if is_mapped and segment.is_writable:
            segment.map()
            return
        logger.info("%s cannot share memory, or as much: large frames to it travel in packets", self._peer)
        self._refused_from = segment.place_bytes
        self._forget(segment)

    def end_lease(self, lease: int, *, is_kept: bool) -> None:
        """Have a place back; where its memory is to be kept as it is, its segment is used no more."""
        if self._passing.end(lease, is_kept=is_kept):
            return
        place = self._leases.pop(lease, None)
        for each in self._pieces.pop(lease, []) if place is None else [place]:
            if each is not None:
                self._have_back(*each, is_kept=is_kept)

    def _have_back(self, segment: Segment, start: int, *, is_kept: bool = False) -> None:
        if segment.number not in self._segments:
            return
        if is_kept:
            self._drop(segment)
            return
        segment.give_back(start, poison=self._poison)

    def close(self) -> None:
        """Let go of everything; what the other side may still see is not used again."""
        self.trim(0)
        self._passing.close()
        self._segments.clear()
        self._by_size.clear()
        self._leases.clear()
        self._pieces.clear()
        self._allocated.clear()
        self.made.clear()
        self.wanted.clear()
        self._refused_from = 0

    def _is_refused(self, size: int) -> bool:
        """Whether there was no memory for so large a frame: a smaller one may find some."""
        return _place_bytes(size) >= self._refused_from

    def _places_of(self, size: int) -> int:
        """Return the size of the places that frames of some size go to: of those that were allocated, if there are."""
        usual = _place_bytes(size, is_usual=True)
        return usual if usual in self._by_size else _place_bytes(size)

    def _collect(self) -> None:
        """Take back the places of which no array is left on this side."""
        while self._gone:
            number, start = self._gone.popleft()
            if (segment := self._segments.get(number)) is not None:
                segment.give_back(start, poison=self._poison)

    def _are_own(self, pieces: Pieces) -> TypeGuard[PlacedPieces]:
        """Whether pieces are in segments of this connection which are still in use."""
        return isinstance(pieces, PlacedPieces) and all(
            self._segments.get(segment.number) is segment for segment, _ in pieces.places
        )

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
        segment_bytes = (1 + len(self._by_size.get(place_bytes, ()))) * FIRST_BYTES
        places = segment_bytes // place_bytes if segment_bytes < SEGMENT_BYTES else -(-SEGMENT_BYTES // place_bytes)
        size = max(1, places) * place_bytes
        if self._arena is not None:  # what others have to give back is not waited for
            self.trim(RECENT_S, self._arena.nbytes - self._arena.free_bytes + size - SHARED_BYTES)
        largest = max((segment.place_bytes for segment in self._segments.values()), default=0)
        if not self._make_room(size, max(self._bytes_max, FRAMES_MIN * max(place_bytes, largest))):
            return None
        number = self._number_segment()
        segment = Segment(number, place_bytes, size, self._gone)
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

    def _make_room(self, size: int, bytes_max: int) -> bool:
        """Drop segments that are not in use, the oldest first, until there is room for one more."""
        self._collect()
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


def _place_bytes(size: int, *, is_usual: bool = False) -> int:
    """Round a size up, so that frames of about one size share segments: by a quarter at most, if large by a 64th.

    So is the size of what is allocated to be written in, as usually there are few sizes: a writer's groups, the rows of
    a shuffle, batches. A queue full of these takes little more memory than their bytes.
    """
    bits = (size - 1).bit_length()
    step = 1 << max(bits - 7, 6) if is_usual or size >= LARGE_BYTES else 1 << max(bits - 3, 12)
    return -(-size // step) * step
