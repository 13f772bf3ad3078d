"""The sender's side of memory: segments, and the places in them that are used again and again.

A server has them from its arena, and a client is lent them by its server (`_pool`). A frame may lie in one once both
sides have mapped it. Places come back with the other side's word that its last view is gone, never by themselves; the
last one back is used first, as it is warm. Frames of up to some megabytes that are copied lie one behind the other in
segments of their own.

What has come through a connection and is sent on, as a server does with a batch, is not copied (`_passing`).
"""

from __future__ import annotations

import itertools
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from aioflow.transport import Pieces
from aioflow_shm._limits import MEMORY_FROM, PIECE_FROM
from aioflow_shm._passing import Passing
from aioflow_shm._pieces import PlacedPieces, PlacesGone
from aioflow_shm._places import ANY_SIZE, AnySegment, Place, round_up
from aioflow_shm._pool import Pool
from aioflow_shm._views import find_owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioflow.transport import AnyFrame, Frame
    from aioflow_shm._arena import Arena
    from aioflow_shm._parcels import Reference
    from aioflow_shm._places import Segment

_NUMBERS = 1 << 32


class Segments:
    """The segments of one direction of a connection.

    Args:
        peer: The other side, for messages to people.
        bytes_max: Memory that they take in all, or that of `FRAMES_MIN` frames where these are larger; 0: none.
        arena: Of a server, which makes their memory; None: the other side lends it.
        poison: Whether what comes back is overwritten, so that a view that should be gone is found out.

    Attributes:
        pool: Which segments there are.
    """

    def __init__(self, peer: str, bytes_max: int, arena: Arena | None, *, poison: bool) -> None:
        self._gone: deque[tuple[int, int]] = deque()  # places of which no array is left on this side
        self._leases: dict[int, tuple[Segment, int]] = {}
        self._pieces: dict[int, list[tuple[Segment, int] | None]] = {}  # leases of pieces that were not given back
        self._allocated: dict[int, PlacesGone] = {}  # pieces that somebody refers to, by the identity of what tells
        number_segment = itertools.count().__next__
        self._number_lease = (number % _NUMBERS for number in itertools.count(1)).__next__
        self.pool = pool = Pool(peer, bytes_max, arena, number_segment, self._gone, poison=poison)
        self._passing = Passing(number_segment, pool.made, pool.dropped)

    def are_awaited(self, frames: Sequence[AnyFrame], sizes: Sequence[int], *, asks: bool = True) -> bool:
        """Whether there will be places for frames as soon as the other side has answered; `asks` it for them."""
        is_awaited = False
        copies: dict[int, list[int]] = {}
        for frame, size in zip(frames, sizes, strict=True):
            if size < MEMORY_FROM or self.pool.is_refused(size):
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
            copies.setdefault(self.pool.kind_of(size), []).append(size)
        for kind, copied in copies.items():
            is_awaited |= self._are_coming(kind, copied, asks=asks)
        return is_awaited

    def _are_coming(self, kind: int, sizes: Sequence[int], *, asks: bool) -> bool:
        """Whether places of one kind will be there for some of these when the other side has mapped them."""
        segments = self.pool.of_kind(kind)
        if kind == ANY_SIZE:
            return self._is_room_coming(segments, sizes, asks=asks)
        count = len(sizes) - sum(len(segment.free) for segment in segments if segment.is_mapped)
        coming = sum(len(segment.free) for segment in segments if not segment.is_mapped)
        while asks and coming < count and (segment := self.pool.make(kind, kind)) is not None:
            if segment.is_mapped:
                count -= len(segment.free)
            else:
                coming += len(segment.free)
        return count > 0 and coming > 0

    def _is_room_coming(self, segments: Sequence[Segment], sizes: Sequence[int], *, asks: bool) -> bool:
        """The same of frames of any sizes: each takes the largest room of the first segment where it is enough."""
        rooms: list[tuple[Segment, int]] = [(each, each.largest) for each in segments if isinstance(each, AnySegment)]
        rooms.sort(key=lambda each: not each[0].is_mapped)
        is_coming = False
        for size in map(round_up, sizes):
            at = next((i for i, (_, room) in enumerate(rooms) if room >= size), len(rooms))
            if at == len(rooms):
                made = self.pool.make(ANY_SIZE, size) if asks else None
                if made is None:
                    continue
                rooms.append((made, made.size))
            segment, room = rooms[at]
            rooms[at] = segment, room - size
            is_coming |= not segment.is_mapped
        return is_coming

    def put(self, frame: AnyFrame, size: int) -> Reference | None:
        """Return where a frame lies, or to where it was copied; None where it is too small, or there is no place.

        A frame that was written in a place, or that lies in a segment of the other direction or of another connection,
        stays there.
        """
        if isinstance(frame, Pieces):
            return self._put_pieces(frame)
        if size < MEMORY_FROM or self.pool.is_refused(size):
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
        segments = self.pool.of_kind(kind := self.pool.kind_of(size))
        having_room = (each for each in reversed(segments) if each.is_mapped and each.has_room(size))
        if kind == ANY_SIZE:  # what has much room is kept for those who need it
            segment = min(having_room, key=attrgetter("largest"), default=None)
        else:
            segment = next(having_room, None)
        if segment is None:
            return None
        start = segment.take(size)
        _copy(frame, segment, start, size)
        return self._lease(segment, start, start, size)

    def allocate(self, size: int) -> memoryview | None:
        """Return a place to write in; None where so much is too small to go in memory, or there is no place.

        What is written in one before its segment was lent is copied there when it is sent.
        """
        if size < MEMORY_FROM or self.pool.is_refused(size):
            return None
        place_bytes = round_up(size)
        free = (segment for segment in reversed(self.pool.of_kind(place_bytes)) if segment.free)
        segment = max(free, key=attrgetter("is_writable"), default=None) or self.pool.make(place_bytes, place_bytes)
        return None if segment is None else segment.take_place(size).data

    def allocate_pieces(self, size: int, count: int) -> PlacedPieces | None:
        """Return pieces to write in, each in a place of its own; None as `allocate`."""
        if size < PIECE_FROM or self.pool.is_refused(size):
            return None
        place_bytes = round_up(size)
        segments = sorted(self.pool.of_kind(place_bytes), key=attrgetter("is_writable", "number"))
        places: list[tuple[Segment, int]] = []
        while len(places) < count:
            segment = segments.pop() if segments else self.pool.make(place_bytes, place_bytes)
            if segment is None:
                self._gone.extend((segment.number, start) for segment, start in places)
                return None
            while segment.free and len(places) < count:
                places.append((segment, segment.take(size)))
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
                self.pool.have_back(*place)

    @property
    def has_any(self) -> bool:
        """Whether the other side has any of this memory, or is still to be told that it is gone."""
        return bool(self.pool or self._passing.has_any or self.pool.dropped)

    def answered(self, number: int, *, is_mapped: bool) -> None:
        """Learn whether the other side has mapped a segment, or lends it."""
        if not self.pool.answered(number, is_mapped=is_mapped):
            self._passing.answered(number, is_mapped=is_mapped)

    def end_lease(self, lease: int, *, is_kept: bool) -> None:
        """Have a place back; where its memory is to be kept as it is, its segment is used no more."""
        if self._passing.end(lease, is_kept=is_kept):
            return
        place = self._leases.pop(lease, None)
        for each in self._pieces.pop(lease, []) if place is None else [place]:
            if each is not None:
                self.pool.have_back(*each, is_kept=is_kept)

    def close(self) -> None:
        """Let go of everything; what the other side may still see is not used again."""
        self.pool.close()
        self._passing.close()
        self._leases.clear()
        self._pieces.clear()
        self._allocated.clear()

    def _are_own(self, pieces: Pieces) -> TypeGuard[PlacedPieces]:
        """Whether pieces are in segments of this connection which are still in use."""
        return isinstance(pieces, PlacedPieces) and all(self.pool.has(segment) for segment, _ in pieces.places)

    def _is_own(self, place: Place) -> bool:
        """Whether a place is in a segment of this connection which is still in use."""
        return self.pool.has(place.segment)

    def _lease(self, segment: Segment, place: int, start: int, size: int) -> Reference:
        """Return a reference to what lies in a place, which is in use until its lease ends."""
        lease = self._number_lease()
        self._leases[lease] = (segment, place)
        return segment.number, start, size, lease


def _copy(frame: Frame, segment: Segment, start: int, size: int) -> None:
    # NumPy lets other threads run meanwhile, a mapping does not: a gigabyte takes longer than a beat may be late.
    segment.array(start, size)[:] = np.frombuffer(frame, np.uint8)
