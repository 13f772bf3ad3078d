"""Rows of numbers whose shapes differ, as one block of values; and what pads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Array", "Index", "Ragged"]

Array: TypeAlias = "NDArray[Any]"
Index: TypeAlias = "slice | NDArray[np.intp]"

# A padded row of so many values or more is copied by itself; shorter ones all at once, through a mask of the batch.
LONG_ROW = 512


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of numbers whose shapes differ, all of one rank, which is at least 1.

    Attributes:
        sizes: int64, of shape [rows, rank]: the shape of each row.
        data: Of the component's dtype, of shape [values of all rows]: row after row, each in C order.
    """

    sizes: Array
    data: Array
    _ends: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find where each row ends in the data."""
        sizes = self.sizes
        counts = sizes[:, 0] if sizes.shape[1] == 1 else sizes.prod(axis=1)
        object.__setattr__(self, "_ends", counts.cumsum())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the rows have when they are padded: rows in front, then the largest of each dimension."""
        rows, rank = self.sizes.shape
        if rank == 1 and rows:  # as nearly always, and quicker
            return rows, int(self.sizes.max())
        return (rows, *(self.sizes.max(axis=0).tolist() if rows else [0] * rank))

    @property
    def least(self) -> tuple[int, ...]:
        """The smallest of each dimension."""
        rows, rank = self.sizes.shape
        return tuple(self.sizes.min(axis=0).tolist() if rows else [0] * rank)

    @property
    def row_bytes(self) -> Array:
        """Bytes of each row, int64 of shape [rows]."""
        return np.diff(self._ends, prepend=0) * self.data.itemsize

    def take(self, index: Index) -> Ragged:
        """Return the rows that an index selects, in its order; a slice gives a view."""
        ends = self._ends
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(ends))
            first = int(ends[start - 1]) if start else 0
            last = int(ends[stop - 1]) if stop > start else first
            return Ragged(self.sizes[index], self.data[first:last])
        starts = np.diff(ends, prepend=0)
        np.subtract(ends, starts, out=starts)
        pairs = zip(starts[index].tolist(), ends[index].tolist(), strict=True)
        pieces = [self.data[start:end] for start, end in pairs]
        return Ragged(self.sizes[index], np.concatenate(pieces) if pieces else self.data[:0])

    def pad(self, shape: tuple[int, ...]) -> Array:
        """Return an array of `shape`, that of this column: rows are filled at the end of each dimension with zeros.

        Rows that all have the same shape come as a view.
        """
        count = math.prod(shape)
        if len(self.data) == count:
            return self.data.reshape(shape)
        filled = np.zeros(shape, self.data.dtype)
        if count < LONG_ROW * shape[0]:
            filled[self._mask(shape)] = self.data
            return filled
        start = 0
        for row, sizes, end in zip(filled, self.sizes.tolist(), self._ends.tolist(), strict=True):
            row[tuple(map(slice, sizes))] = self.data[start:end].reshape(sizes)
            start = end
        return filled

    def _mask(self, shape: tuple[int, ...]) -> Array:
        """Where the padded rows have values: in C order, as the data are."""
        rows, rank = self.sizes.shape
        sizes = self.sizes.reshape(rows, *[1] * (rank - 1), rank)
        mask: Array = np.arange(shape[-1]) < sizes[..., -1:]
        for i in range(rank - 1):
            places = np.arange(shape[1 + i]).reshape(-1, *[1] * (rank - 1 - i))
            mask = mask & (places < sizes[..., i : i + 1])
        return mask

    @classmethod
    def of(cls, column: Array | Ragged) -> Ragged:
        """Return a column of numbers as one of this kind."""
        if isinstance(column, Ragged):
            return column
        rows, *shape = column.shape
        return cls(np.full((rows, len(shape)), shape, np.int64), column.reshape(-1))
