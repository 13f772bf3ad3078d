"""Frames that lie in pieces, on both sides of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import numpy as np

from aioflow.transport import Pieces, WritablePieces
from aioflow_shm._memory import BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from aioflow_shm._memory import Memory
    from aioflow_shm._places import Segment
    from aioflow_shm._views import Lease


class PlacedPieces(WritablePieces):
    """Pieces to write in, each in a place of its own.

    Attributes:
        places: The segment of each, and where it begins there.
        drafts: Other memory for those whose segment was not there yet: they are copied when they are sent.
    """

    __slots__ = ("_whole", "drafts", "places")

    def __init__(
        self,
        size: int,
        places: Sequence[tuple[Segment, int]],
        drafts: Sequence[NDArray[np.uint8] | None],
        whole: PlacedPieces | None = None,
    ) -> None:
        super().__init__(size, len(places))
        self.places = places
        self.drafts = drafts
        self._whole = whole

    @classmethod
    def of(cls, size: int, places: Sequence[tuple[Segment, int]]) -> Self:
        """Take places."""
        return cls(size, places, [None if segment.is_writable else np.empty(size, np.uint8) for segment, _ in places])

    def piece(self, number: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        """Return a piece to write in."""
        if (draft := self.drafts[number]) is not None:
            return draft.view(dtype)
        segment, start = self.places[number]
        return segment.array(start, self.size, dtype)

    def part(self, first: int, count: int) -> PlacedPieces:
        """Return some pieces, which keep all of them."""
        end = first + count
        return PlacedPieces(self.size, self.places[first:end], self.drafts[first:end], self._whole or self)

    def release(self, numbers: Iterable[int]) -> None:
        """Do nothing: they were not received."""


class PlacesGone(ref[PlacedPieces]):
    """Tells when nobody refers to pieces any more, and the segment's number of each place, and where it begins."""

    __slots__ = ("places",)

    def __new__(cls, pieces: PlacedPieces, callback: Callable[[Any], None]) -> Self:
        """Make a weak reference, which knows nothing of places."""
        return super().__new__(cls, pieces, callback)

    def __init__(self, pieces: PlacedPieces, callback: Callable[[Any], None]) -> None:  # noqa: ARG002
        self.places = [(segment.number, start) for segment, start in pieces.places]


class ReceivedPieces(Pieces):
    """Pieces to read.

    Attributes:
        lease: Tells when all are gone.
    """

    __slots__ = ("_memories", "_released", "_starts", "lease")

    lease: Lease

    def __init__(
        self, size: int, memories: Sequence[Memory | None], starts: Sequence[int], released: dict[int, list[int]]
    ) -> None:
        super().__init__(size, len(starts))
        self._memories = [*memories]
        self._starts = starts
        self._released = released

    @property
    def memories(self) -> set[Memory]:
        """Where those lie that were not let go of."""
        return {memory for memory in self._memories if memory is not None}

    def piece(self, number: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        """Return a piece, to be read until it is let go of."""
        memory = self._memories[number]
        assert memory is not None, "it was let go of"
        return memory.array(self._starts[number], self.size, dtype)

    def release(self, numbers: Iterable[int]) -> None:
        """Have the other side write there again."""
        released = self._released.setdefault(self.lease.number, [])
        for number in numbers:
            if self._memories[number] is not None:
                self._memories[number] = None
                released.append(number)
