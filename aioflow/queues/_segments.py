"""Elements as rows of segments: what one put brought, and selections of its rows.

An `enqueue_many` of k elements is one segment of k rows. Nobody here reads a payload: `columns` is whatever the edge
stored (arrays, received frames), and a row is a segment and an index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aioflow.specs import Scattered, column_row_bytes, pad_column, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.specs import Array, Column, Index

__all__ = ["Part", "Rows", "Segment"]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The rows of one put.

    Attributes:
        rows: How many.
        columns: One column for each component; opaque to the queue.
        row_bytes: Payload bytes of each row; one number where all have the same.
        priorities: int64, of shape [rows]; PriorityQueue only.
    """

    rows: int
    columns: tuple[Column, ...]
    row_bytes: int | Array
    priorities: Array | None = None
    _before: Array = field(init=False, repr=False)  # bytes before each row, and of all; where they vary

    def __post_init__(self) -> None:
        """Add up the bytes once: a put that moves row by row asks for them at every move."""
        if not isinstance(self.row_bytes, int):
            object.__setattr__(self, "_before", np.concatenate(([0], np.cumsum(self.row_bytes))))

    @classmethod
    def of(cls, columns: tuple[Column, ...], *, prioritised: bool = False) -> Segment:
        """Make a segment of columns; with `prioritised` the first column is the priorities."""
        row_bytes: int | Array = 0
        for column in columns:
            row_bytes = row_bytes + column_row_bytes(column)
        priorities = pad_column(columns[0]) if prioritised else None  # a peer may send them in pieces
        return cls(columns[0].shape[0], columns, row_bytes, priorities)  # type: ignore[arg-type]

    def nbytes(self, index: Index) -> int:
        """Payload bytes of the rows that an index selects."""
        if isinstance(self.row_bytes, int):
            rows = index.stop - index.start if isinstance(index, slice) else len(index)
            return rows * self.row_bytes
        if isinstance(index, slice):
            return int(self._before[index.stop] - self._before[index.start])
        return int(self.row_bytes[index].sum())

    def release(self, index: Index) -> None:
        """Let go of rows that nobody reads any more, where they lie apart; the others go with the segment."""
        for column in self.columns:
            if isinstance(column, Scattered):
                column.release(index)

    def row(self, row: int, copy: Callable[[Column], Column]) -> Segment:
        """Return a segment of one row, copied."""
        index = slice(row, row + 1)
        columns = tuple(copy(take_rows(column, index)) for column in self.columns)
        priorities = None if self.priorities is None else self.priorities[index].copy()
        return Segment(1, columns, self.nbytes(index), priorities)

    def bytes_of(self, index: Index) -> int | Array:
        """Payload bytes of each row that an index selects; one number where all have the same."""
        return self.row_bytes if isinstance(self.row_bytes, int) else self.row_bytes[index]

    def rows_within(self, start: int, stop: int, room: int) -> int:
        """How many rows from `start`, at most to `stop`, have together at most `room` bytes."""
        if room < 0:  # a restore may have left less than none
            return 0
        if isinstance(self.row_bytes, int):
            return min(stop - start, room // self.row_bytes) if self.row_bytes else stop - start
        fits = np.searchsorted(self._before[start : stop + 1], self._before[start] + room, side="right")
        return int(fits) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one segment within a selection.

    Attributes:
        segment: Where they are.
        index: Which rows of it.
        places: Their places in the selection.
        numbers: Their numbers of acceptance, of the same length; consecutive from an int where `index` is a slice.
    """

    segment: Segment
    index: Index
    places: Index
    numbers: int | Array

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the segment, each at the place that it has there; not found out of a slice."""
        index = self.index
        return index is self.places and isinstance(index, np.ndarray) and len(index) == self.segment.rows

    @property
    def all_numbers(self) -> Array:
        """The numbers of acceptance of all."""
        if isinstance(self.index, slice):
            return np.arange(self.index.stop - self.index.start) + self.numbers
        assert isinstance(self.numbers, np.ndarray)
        return self.numbers


class Rows:
    """A selection of rows, in the order in which a get receives them."""

    __slots__ = ("count", "nbytes", "parts")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.count = 0
        self.nbytes = 0

    def add(self, segment: Segment, index: Index, numbers: int | Array, places: Index | None = None) -> None:
        """Append rows of one segment, at the end or at given places of the whole selection."""
        count = index.stop - index.start if isinstance(index, slice) else len(index)
        if places is None:
            places = slice(self.count, self.count + count)
        self.parts.append(Part(segment, index, places, numbers))
        self.count += count
        self.nbytes += segment.nbytes(index)

    def extend(self, other: Rows) -> None:
        """Append another selection, which is not used any more."""
        if not self.count:
            self.parts, self.count, self.nbytes = other.parts, other.count, other.nbytes
            return
        for part in other.parts:
            places = part.places
            shifted = (
                slice(places.start + self.count, places.stop + self.count)
                if isinstance(places, slice)
                else places + self.count
            )
            self.parts.append(Part(part.segment, part.index, shifted, part.numbers))
        self.count += other.count
        self.nbytes += other.nbytes

    @property
    def lie_apart(self) -> bool:
        """Whether they become columns by a copy: they lie in several segments, or each in memory of its own."""
        return len(self.parts) > 1 or any(
            isinstance(column, Scattered) for part in self.parts for column in part.segment.columns
        )

    def bytes_before(self) -> list[int]:
        """Payload bytes before each row, and of all."""
        row_bytes = np.empty(self.count, np.int64)
        for part in self.parts:
            row_bytes[part.places] = part.segment.bytes_of(part.index)
        return [0, *np.cumsum(row_bytes).tolist()]

    def after(self, count: int) -> Rows:
        """Return the selection without its first `count` rows."""
        rest = Rows()
        for part in self.parts:
            if isinstance(part.index, slice):
                assert isinstance(part.places, slice)
                assert isinstance(part.numbers, int)
                skip = max(0, count - part.places.start)
                start, stop = part.index.start + skip, part.index.stop
                if start < stop:
                    at = part.places.start + skip - count
                    rest.add(part.segment, slice(start, stop), part.numbers + skip, slice(at, at + stop - start))
            else:
                assert isinstance(part.places, np.ndarray)
                assert isinstance(part.numbers, np.ndarray)
                stays = part.places >= count
                if stays.any():
                    rest.add(part.segment, part.index[stays], part.numbers[stays], part.places[stays] - count)
        return rest
