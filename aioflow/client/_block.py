"""Single elements gathered in columns as they are written: one copy each, where they are numbers of fixed shapes.

Of a queue which any row may leave first, large rows lie apart, if they can.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import SpecMismatch
from aioflow.queues import Segment
from aioflow.specs import Scattered, empty, no_pieces, numpy_dtype

if TYPE_CHECKING:
    from aioflow.queues import QueueDefinition
    from aioflow.specs import Allocate, AllocatePieces, Array, Column
    from aioflow.transport import WritablePieces

__all__ = ["Block"]

# What stands for exactly a number of its kind, beside NumPy's own scalar; an int has to fit.
_PYTHON_SCALARS: dict[str, type] = {"b": bool, "i": int, "u": int}


class Block:
    """Rows to come, of a queue whose elements have one size.

    Args:
        definition: Of the queue.
        row_bytes: Payload bytes of each row.
        rows_max: How many it can hold.
        allocate: Where they are gathered.
        allocate_pieces: Where large ones are that lie apart.

    Attributes:
        count: Rows in it.
        room: How many it can hold before it is taken.
        row_bytes: Payload bytes of each.
    """

    def __init__(
        self,
        definition: QueueDefinition,
        row_bytes: int,
        rows_max: int,
        allocate: Allocate,
        allocate_pieces: AllocatePieces = no_pieces,
    ) -> None:
        self.count = 0
        self.room = rows_max
        self.row_bytes = row_bytes
        self._rows_max = rows_max
        self._first = 0  # before it lies what was taken
        self._element = definition.element
        self._shared = allocate
        self._is_named = definition.element.names is not None
        self._prioritised = definition.kind == "PriorityQueue"
        self._fits: list[tuple[np.dtype[Any], tuple[int | None, ...], tuple[type, ...]]] = []
        for component in definition.element.components:
            dtype = numpy_dtype(component.dtype)
            python = float if dtype == np.float64 else _PYTHON_SCALARS.get(dtype.kind, dtype.type)
            self._fits.append((dtype, component.shape or (), () if component.shape else (dtype.type, python)))
        self._scattered = definition.scattered
        self._pieces = allocate_pieces
        self._columns: list[Array | _Apart] = []

    @property
    def nbytes(self) -> int:
        """Payload bytes of its rows."""
        return self.count * self.row_bytes

    def rows_within(self, rows: int, nbytes: int) -> int:
        """Return how many rows, of so many, may be added before they have so many bytes."""
        return min(rows, self.room - self.count, nbytes // max(1, self.row_bytes))

    def add(self, element: Any) -> bool:
        """Copy in an element that has exactly the dtypes and shapes; say whether it has, for there is room."""
        if type(element) is not tuple or self._is_named:
            try:
                element = self._element.split(element)
            except SpecMismatch:
                return False
        row, columns = self._first + self.count, self._columns or self._allocate()
        if len(element) != len(columns):
            return False
        for value, column, (dtype, shape, scalars) in zip(element, columns, self._fits, strict=True):
            kind = type(value)
            if kind is np.ndarray:
                if value.dtype is not dtype or value.shape != shape:
                    return False
            elif kind not in scalars:
                return False
            try:
                column[row] = value
            except OverflowError:
                return False
        self.count += 1
        return True

    def add_many(self, value: Any, rows_max: int) -> int:
        """Copy in at most so many rows, for which there is room; return how many.

        Returns 0, and adds nothing, where there are more, or the columns do not have exactly the dtypes and shapes.
        """
        row, columns = self._first + self.count, self._columns or self._allocate()
        if type(value) is not tuple or self._is_named or len(value) != len(columns):
            return 0
        rows = len(value[0]) if type(value[0]) is np.ndarray and value[0].ndim else 0
        if not 0 < rows <= rows_max:
            return 0
        for given, column, (dtype, shape, _) in zip(value, columns, self._fits, strict=True):
            if type(given) is not np.ndarray or given.dtype is not dtype or given.shape != (rows, *shape):
                return 0  # what was copied before lies behind the last row, where the next one goes
            column[row : row + rows] = given
        self.count += rows
        return rows

    def add_row(self, columns: tuple[Column, ...]) -> bool:
        """Copy in columns of one row, for which there is room: true."""
        row = self._first + self.count
        for column, given in zip(self._columns or self._allocate(), columns, strict=True):
            column[row : row + 1] = given
        self.count += 1
        return True

    def take(self) -> Segment:
        """Return the rows; those to come lie behind them in the same memory, until there is no room."""
        first, count = self._first, self.count
        parts = tuple([column[first : first + count] for column in self._columns])
        for part in parts:
            if isinstance(part, np.ndarray):
                part.flags.writeable = False
        self.count = 0
        self._first += count
        self.room -= count
        if not self.room:
            self._renew()
        return Segment(count, parts, self.row_bytes, parts[0] if self._prioritised else None)  # type: ignore[arg-type]

    def make_room(self, rows: int) -> None:
        """Begin anew where there is no room for so many rows: what lies in two pieces is copied together."""
        if self.room < rows and not self.count:
            self._renew()

    def resize(self, rows_max: int) -> None:
        """Have memory for so many rows taken at once, from now on where there is no row."""
        self._rows_max = rows_max
        if not self.count:
            self._renew()

    def _renew(self) -> None:
        self._columns, self._first, self.room = [], 0, self._rows_max

    def _allocate(self) -> list[Array | _Apart]:
        self._columns = [self._allocate_column(i) for i in range(len(self._fits))]
        return self._columns

    def _allocate_column(self, component: int) -> Array | _Apart:
        dtype, sizes, _ = self._fits[component]
        shape: tuple[int, ...] = sizes  # type: ignore[assignment]
        if component in self._scattered:
            pieces = self._pieces(math.prod(shape) * dtype.itemsize, self._rows_max)
            if pieces is not None:
                return _Apart(pieces, shape, dtype)
        return empty((self._rows_max, *shape), dtype, self._shared)


class _Apart:
    """Stands for the array of a component whose rows lie apart."""

    def __init__(self, pieces: WritablePieces, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pieces = pieces
        self._row_shape = row_shape
        self._dtype = dtype

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            for row, each in enumerate(value, index.start):
                self[row] = each
        else:
            self._pieces.piece(index, self._dtype).reshape(self._row_shape)[...] = value

    def __getitem__(self, index: slice) -> Scattered:
        pieces = self._pieces.part(index.start, index.stop - index.start)
        return Scattered.of_pieces(pieces, self._row_shape, self._dtype)
