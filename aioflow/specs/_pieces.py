"""Memory in pieces, of which each comes back by itself: what rows that lie apart lie in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

__all__ = ["AllocatePieces", "Pieces", "WritablePieces", "no_pieces"]

# Returns pieces that go to where they are sent without a copy, if there are any: given their size, and how many.
AllocatePieces: TypeAlias = "Callable[[int, int], WritablePieces | None]"

BYTES = np.dtype(np.uint8)


class Pieces:
    """A frame that lies in pieces of one size, of which a receiver may let go one by one.

    It travels as any other frame, with the bytes of all pieces in order; not every transport hands it over in pieces.

    Attributes:
        size: Bytes of each piece.
        count: How many there are.
    """

    # No abstract base class: whether a frame is one is asked for each frame, and those answer in Python.
    __slots__ = ("__weakref__", "count", "size")

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count

    def __len__(self) -> int:
        return self.size * self.count

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces."""
        return self.size * self.count

    def piece(self, number: int, dtype: np.dtype[Any] = BYTES) -> NDArray[Any]:
        """Return a piece as an array of one dimension."""
        raise NotImplementedError

    def release(self, numbers: Iterable[int]) -> None:
        """Let go of pieces that were received: nobody may read there any more, as their memory is used again.

        Nothing comes of it where they were not received.
        """
        raise NotImplementedError

    def joined(self) -> memoryview:
        """Return a copy of all pieces."""
        return np.concatenate([self.piece(number) for number in range(self.count)]).data

    def __bytes__(self) -> bytes:
        return bytes(self.joined())


class WritablePieces(Pieces):
    """Pieces that were allocated, to be written and sent."""

    def part(self, first: int, count: int) -> Pieces:
        """Return some of them as a frame of its own."""
        raise NotImplementedError


def no_pieces(_size: int, _count: int) -> None:
    """Have none."""
