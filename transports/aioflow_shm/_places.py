"""Where the sender writes: the places of a segment. Who writes in one keeps it as long as it likes.

A segment has places of one size, or any. The other side does not know of places: one that is not in use may get others.
A place is in use while an array of it is left on this side, or a frame of it is on the other.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import numpy as np

from aioflow_shm._limits import ALIGN_BYTES
from aioflow_shm._memory import BYTES

if TYPE_CHECKING:
    import mmap
    from collections import deque
    from collections.abc import Callable

    from numpy.typing import NDArray

    from aioflow_shm._memory import Memory

__all__ = ["ANY_SIZE", "AnySegment", "Place", "Segment", "recut", "round_up"]

# The kind of segments whose places have any size.
ANY_SIZE = 0

_POISON = 0xA5


@dataclass(slots=True, eq=False)
class Segment:
    """Memory with places of one size.

    Attributes:
        number: Its name on the wire.
        place_bytes: The size of a place; of one with places of any size what it was made for.
        size: Its bytes.
        gone: Where it is noted that no array of a place is left: the segment's number, and where the place begins.
        writable: All of it; None until a server has lent it.
        memory: The same, of a server's own.
        is_mapped: Whether both sides have mapped it.
        free: Where the free places begin.
    """

    number: int
    place_bytes: int
    size: int
    gone: deque[tuple[int, int]]
    writable: mmap.mmap | None = None
    memory: Memory | None = None
    is_mapped: bool = False
    free: list[int] = field(init=False)
    _unused_since: float = math.inf
    _users: dict[int, int] = field(default_factory=dict)
    _places: dict[int, _Gone] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Have all places free."""
        self.free = list(range(0, self.size - self.place_bytes + 1, self.place_bytes))

    def map(self) -> None:
        """Learn that both sides have mapped it; from now on it is used, or will be given back."""
        self.is_mapped = True
        self._unused_since = monotonic()

    @property
    def is_unused(self) -> bool:
        """Whether no place is in use, and both sides have mapped it."""
        return self.is_mapped and not self._users

    @property
    def unused_s(self) -> float:
        """For how long no place has been in use; -1 where one is."""
        return monotonic() - self._unused_since if self.is_unused else -1

    @property
    def kind(self) -> int:
        """The size of its places; `ANY_SIZE` where that varies."""
        return self.place_bytes

    def has_room(self, size: int) -> bool:
        """Whether a place of so many bytes is free."""
        return bool(self.free) and size <= self.place_bytes

    def take(self, size: int) -> int:  # noqa: ARG002 - places are large enough
        """Take a free place into use; return where it begins."""
        start = self.free.pop()
        self._users[start] = 1
        return start

    def take_place(self, size: int) -> Place:
        """Take a free place into use until the last array of it is gone."""
        start = self.take(size)
        place = Place.of(self, start, size)
        self._places[start] = _Gone(place, self._note_gone, start)
        return place

    def array(self, start: int, size: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        """Return some of it, to be written."""
        assert self.writable is not None, "it was taken before it was lent"
        return np.frombuffer(self.writable, dtype, size // dtype.itemsize, start)

    @property
    def is_writable(self) -> bool:
        """Whether it is there."""
        return self.writable is not None

    def share(self, start: int) -> None:
        """Have one more user of a place that is in use."""
        self._users[start] += 1

    def give_back(self, start: int, *, poison: bool = False) -> None:
        """Have one user less."""
        self._users[start] -= 1
        if not self._users[start]:
            del self._users[start]
            size = self._put_back(start)
            if poison and self.is_writable:
                self.array(start, size)[:] = _POISON
            self._unused_since = monotonic()

    def _put_back(self, start: int) -> int:
        """Have a place free; return its size."""
        self.free.append(start)
        return self.place_bytes

    def _note_gone(self, gone: _Gone) -> None:
        """Note it, in whatever thread: of these calls none can be interrupted."""
        if self._places.pop(gone.start, None) is not None:
            self.gone.append((self.number, gone.start))


@dataclass(slots=True, eq=False)
class AnySegment(Segment):
    """Memory with places of any size, one behind the other: a new one takes the least room that is large enough.

    Attributes:
        largest: The most room that there is at one place.
    """

    largest: int = field(init=False)
    _sizes: dict[int, int] = field(default_factory=dict)
    _room: list[tuple[int, int]] = field(init=False)  # where it begins and ends, in order

    def __post_init__(self) -> None:
        """Have room everywhere."""
        self.free = []
        self._room = [(0, self.size)]
        self.largest = self.size

    @property
    def kind(self) -> int:
        """That sizes vary."""
        return ANY_SIZE

    def has_room(self, size: int) -> bool:
        """Whether there is room for so many bytes."""
        return size <= self.largest

    def take(self, size: int) -> int:
        """Take a place of so many bytes, rounded up, into use; return where it begins."""
        size = -(-size // ALIGN_BYTES) * ALIGN_BYTES
        _, at = min((end - start, i) for i, (start, end) in enumerate(self._room) if end - start >= size)
        start, end = self._room[at]
        self._room[at : at + 1] = [(start + size, end)] if start + size < end else []
        self._find_largest()
        self._sizes[start] = size
        self._users[start] = 1
        return start

    def _put_back(self, start: int) -> int:
        size = self._sizes.pop(start)
        end = start + size
        at = bisect(self._room, (start, end))
        first, last = at, at
        if at and self._room[at - 1][1] == start:
            first, start = at - 1, self._room[at - 1][0]
        if at < len(self._room) and self._room[at][0] == end:
            last, end = at + 1, self._room[at][1]
        self._room[first:last] = [(start, end)]
        self._find_largest()
        return size

    def _find_largest(self) -> None:
        self.largest = max([end - start for start, end in self._room], default=0)


def recut(segment: Segment, kind: int, place_bytes: int) -> Segment:
    """Return a segment that is not in use with places of another size."""
    made = AnySegment if kind == ANY_SIZE else Segment
    anew = made(segment.number, place_bytes, segment.size, segment.gone, segment.writable, segment.memory)
    anew.map()
    return anew


def round_up(size: int) -> int:
    """Round a size up by a 64th at most, so that frames of nearly one size share segments.

    Where many are of one size, as a writer's groups and the rows of a shuffle are, they take little more memory than
    their bytes.
    """
    step = 1 << max((size - 1).bit_length() - 7, 6)
    return -(-size // step) * step


class Place(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A place that is written in. Whoever keeps memory of it, through however many views and arrays, keeps it.

    Attributes:
        segment: Where it is.
        start: Where in it the place begins.
        is_draft: Whether this is other memory, as the segment was not there yet.
    """

    segment: Segment
    start: int
    is_draft: bool

    @classmethod
    def of(cls, segment: Segment, start: int, size: int) -> Self:
        """Make an array of a place."""
        memory = segment.array(start, size) if segment.is_writable else np.empty(size, np.uint8)
        place = memory.view(cls)
        place.is_draft = not segment.is_writable
        place.segment = segment
        place.start = start
        return place


class _Gone(ref[Place]):
    """Tells when a place's last array is gone."""

    __slots__ = ("start",)

    def __new__(cls, place: Place, callback: Callable[[Any], None], start: int) -> Self:  # noqa: ARG004
        """Make a weak reference, which knows nothing of places."""
        return super().__new__(cls, place, callback)

    def __init__(self, place: Place, callback: Callable[[Any], None], start: int) -> None:  # noqa: ARG002
        self.start = start
