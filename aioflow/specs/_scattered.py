"""Rows of numbers of one shape that lie apart, so that each may be let go of before the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioflow.specs._pieces import AllocatePieces, Pieces
    from aioflow.specs._ragged import Array, Index

__all__ = ["Scattered"]


@dataclass(frozen=True, slots=True)
class Scattered:
    """Rows in pieces of a frame, one in each.

    Attributes:
        pieces: The frame.
        rows: The number of the piece in which each row is.
        row_shape: The shape of a row.
        dtype: The dtype of all.
    """

    pieces: Pieces
    rows: Sequence[int]
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, array: Array, allocate: AllocatePieces) -> Scattered | None:
        """Return a copy of the rows of an array; None where there are no pieces for them."""
        rows, *row_shape = array.shape
        pieces = allocate(array.nbytes // rows, rows)
        if pieces is None:
            return None
        for number, row in enumerate(array):
            pieces.piece(number, array.dtype).reshape(row_shape)[...] = row
        return cls(pieces, range(rows), tuple(row_shape), array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows in front."""
        return len(self.rows), *self.row_shape

    @property
    def row_bytes(self) -> int:
        """Bytes of each row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def take(self, index: Index) -> Scattered:
        """Return the rows that an index selects, in its order, where they are."""
        return Scattered(self.pieces, self._numbers(index), self.row_shape, self.dtype)

    def values(self, index: Index) -> Iterator[Array]:
        """Return the values of rows that an index selects, in its order, each of one dimension."""
        return (self.pieces.piece(number, self.dtype) for number in self._numbers(index))

    def joined(self) -> Array:
        """Return a copy of all rows as one array."""
        values = list(self.values(slice(None)))
        return np.concatenate(values).reshape(self.shape) if values else np.empty(self.shape, self.dtype)

    def release(self, index: Index) -> None:
        """Let go of rows: nobody reads them any more."""
        self.pieces.release(self._numbers(index))

    def _numbers(self, index: Index) -> Sequence[int]:
        return self.rows[index] if isinstance(index, slice) else [self.rows[row] for row in index.tolist()]
