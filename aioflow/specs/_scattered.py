"""Rows of numbers of one shape that lie apart, so that each may be let go of before the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioflow.specs._pieces import AllocatePieces, Pieces
    from aioflow.specs._ragged import Array, Index

__all__ = ["Scattered"]


@dataclass(frozen=True, slots=True)
class Scattered:
    """Rows, each in memory of its own.

    Attributes:
        rows: Of objects: an array, or pieces of a frame and the number of the one in which the row is.
        row_shape: The shape of a row.
        dtype: The dtype of all.
        pieces: A frame whose pieces are the rows, in order, if there is one.
    """

    rows: Array
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Pieces | None = None

    @classmethod
    def of_pieces(cls, pieces: Pieces, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Scattered:
        """Return the rows of a frame, one in each piece."""
        rows = np.empty(pieces.count, object)
        for number in range(pieces.count):
            rows[number] = (pieces, number)
        return cls(rows, row_shape, dtype, pieces)

    @classmethod
    def of(cls, array: Array, allocate: AllocatePieces) -> Scattered | None:
        """Return a copy of the rows of an array; None where there are no pieces for them."""
        rows, *row_shape = array.shape
        pieces = allocate(array.nbytes // rows, rows)
        if pieces is None:
            return None
        for number, row in enumerate(array):
            pieces.piece(number, array.dtype).reshape(row_shape)[...] = row
        return cls.of_pieces(pieces, tuple(row_shape), array.dtype)

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
        return Scattered(self.rows[index], self.row_shape, self.dtype)

    def values(self, index: Index) -> Iterator[Array]:
        """Return rows that an index selects, in its order."""
        for row in self.rows[index]:
            if isinstance(row, np.ndarray):
                yield row
            else:
                pieces, number = row
                yield pieces.piece(number, self.dtype).reshape(self.row_shape)

    def joined(self) -> Array:
        """Return a copy of all rows as one array."""
        joined = np.empty(self.shape, self.dtype)
        for number, value in enumerate(self.values(slice(None))):
            joined[number] = value
        return joined

    def release(self, index: Index) -> None:
        """Let go of rows: nobody reads them any more."""
        for row in self.rows[index]:
            if not isinstance(row, np.ndarray):
                pieces, number = row
                pieces.release((number,))
