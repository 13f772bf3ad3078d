"""Columns: one component of many rows, stored as one block.

Numbers are a NumPy array with the rows in front or, where rows differ in shape, their sizes and one block of values
(`Ragged`); large rows of one shape may lie apart (`Scattered`). Strings are their lengths and one block of UTF-8 or raw
bytes, so that a server can hold and pass them on without decoding any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from aioflow.specs._ragged import Array, Index, Ragged
from aioflow.specs._scattered import Scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Allocate",
    "Column",
    "Dense",
    "Strings",
    "column_row_bytes",
    "empty",
    "join_columns",
    "no_memory",
    "pad_column",
    "take_rows",
]

# Fewer bytes are copied on, to where others lie that go to the same place.
ALLOCATED_FROM = 1 << 20

# Strings of so many bytes are read where they are; all short ones are copied at once first, as that is quicker.
LONG_BYTES = 256

# NumPy has at most 64 dimensions, and the rows are one.
RANK_MAX = 63

Dense: TypeAlias = "Array | Strings"
Column: TypeAlias = "Dense | Ragged | Scattered"
# Returns memory of so many bytes that goes to where it is sent without a copy, if there is any.
Allocate: TypeAlias = Callable[[int], memoryview | None]


@dataclass(frozen=True, slots=True)
class Strings:
    """Rows of strings.

    Attributes:
        lengths: int64, of shape [rows, *shape]: bytes of each string, in C order.
        data: uint8, of shape [sum of lengths].
    """

    lengths: Array
    data: Array
    _ends: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find where each row ends in the data."""
        rows = len(self.lengths)
        per_row = self.lengths.reshape(rows, -1).sum(axis=1) if self.lengths.size else np.zeros(rows, np.int64)
        object.__setattr__(self, "_ends", np.cumsum(per_row))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the lengths: rows in front."""
        return self.lengths.shape

    @property
    def row_bytes(self) -> Array:
        """Bytes of each row, int64 of shape [rows]."""
        return np.diff(self._ends, prepend=0)

    def take(self, index: Index) -> Strings:
        """Return the rows that an index selects, in its order."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self.lengths))
            first = int(self._ends[start - 1]) if start else 0
            last = int(self._ends[stop - 1]) if stop > start else first
            return Strings(self.lengths[index], self.data[first:last])
        values = self.values(index)
        return Strings(self.lengths[index], np.concatenate(values) if values else self.data[:0])

    def values(self, index: Index) -> list[Array]:
        """Return the bytes of each row that an index selects, in its order, where they are."""
        ends, lengths = self._ends[index], self.lengths[index]
        starts = ends - lengths.sum(axis=tuple(range(1, lengths.ndim)))
        return [self.data[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def pad(self, shape: tuple[int, ...]) -> Strings:
        """Return rows that are filled at the end of each dimension with the empty string, up to `shape`."""
        if self.shape[1:] == shape:
            return self
        lengths = np.zeros((self.shape[0], *shape), np.int64)
        lengths[tuple(map(slice, self.shape))] = self.lengths
        # An empty string has no bytes, and padding keeps the C order of the others: the data stay as they are.
        return Strings(lengths, self.data)

    def decode(self, dtype: str) -> Array:
        """Return an object array of `str` or `bytes`, of the shape of the lengths."""
        are_long = self.data.nbytes >= LONG_BYTES * self.lengths.size
        block = self.data.data if are_long else self.data.tobytes()
        values = np.empty(self.lengths.size, dtype=object)
        at = 0
        for i, length in enumerate(self.lengths.ravel().tolist()):
            values[i] = block[at : at + length]
            at += length
        if are_long:
            values[:] = list(map(bytes, values))
        if dtype == "str":
            values[:] = [value.decode() for value in values]
        return values.reshape(self.lengths.shape)

    @classmethod
    def encode(cls, values: Sequence[bytes], shape: tuple[int, ...]) -> Strings:
        """Store values, in C order, as rows of a shape (rows in front)."""
        lengths = np.fromiter((len(value) for value in values), np.int64, len(values))
        return cls(lengths.reshape(shape), np.frombuffer(b"".join(values), np.uint8))


def no_memory(_: int) -> None:
    """Have memory from nowhere in particular."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], allocate: Allocate) -> Array:
    """Return an array that is not filled yet, in memory that was allocated for it, or any where there is none."""
    memory = allocate(math.prod(shape) * dtype.itemsize)
    return np.empty(shape, dtype) if memory is None else np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


def take_rows(column: Column, index: Index) -> Column:
    """Return the rows of a column that an index selects; a slice gives a view."""
    return column[index] if isinstance(column, np.ndarray) else column.take(index)


def join_columns(columns: Sequence[Column], allocate: Allocate = no_memory) -> Column:
    """Return the rows of columns of one component, in order, as one: strings of one shape, or numbers of one rank.

    Values of rows that may vary are copied to memory that is allocated.
    """
    strings = [column for column in columns if isinstance(column, Strings)]
    if strings:
        lengths = np.concatenate([column.lengths for column in strings])
        return Strings(lengths, _join_values([column.data for column in strings], allocate))
    numbers = [
        column.joined() if isinstance(column, Scattered) else column
        for column in columns
        if not isinstance(column, Strings)
    ]
    arrays = [column for column in numbers if isinstance(column, np.ndarray)]
    if len(arrays) < len(numbers) or len({array.shape[1:] for array in arrays}) > 1:
        parts = [Ragged.of(column) for column in numbers]
        sizes = np.concatenate([part.sizes for part in parts])
        return Ragged(sizes, _join_values([part.data for part in parts], allocate))
    return np.concatenate(arrays)


def _join_values(values: Sequence[Array], allocate: Allocate) -> Array:
    """Return vectors one behind the other, in memory that is allocated where they are many."""
    nbytes = sum([each.nbytes for each in values])
    if nbytes < ALLOCATED_FROM or (memory := allocate(nbytes)) is None:
        return np.concatenate(values)
    joined = np.frombuffer(memory, np.uint8).view(values[0].dtype)
    np.concatenate(values, out=joined)
    return joined


def column_row_bytes(column: Column) -> int | Array:
    """Return the payload bytes of each row: one number where all rows have the same."""
    if not isinstance(column, np.ndarray):
        return column.row_bytes
    return column.nbytes // len(column) if len(column) else 0


def pad_column(column: Column) -> Dense:
    """Return a column whose rows lie together and have one shape: that of the largest in each dimension."""
    if isinstance(column, Scattered):
        return column.joined()
    return column.pad(column.shape) if isinstance(column, Ragged) else column
