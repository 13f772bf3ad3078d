"""Where the rows of a queue lie that leave out of order: each in memory of its own, under the number of its slot.

Small rows of numbers are copied to arrays, and out again: for 64 bytes that takes a fraction of what it takes to keep
in mind where each lies, and to fetch it from there. Rows that came in pieces of a frame stay where they are, and so do
those of one size that came alone. Others are copied once: what came with one that is left would stay with it, and where
sizes vary the room between those that are left might be too small for the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from aioflow.queues._definition import UNBOUNDED, QueueDefinition
from aioflow.queues._pages import OwnPages
from aioflow.queues._segments import Rows, Segment
from aioflow.specs import STRING_DTYPES, Scattered, Strings, TensorSpec, numpy_dtype, pad_column, take_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.specs import Array, Column, Index

__all__ = ["RowStore", "make_store"]

_Part: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"  # of an array, the shape of an entry, and the dtype

# Rows of a component of at most so many bytes lie in an array.
SMALL_BYTES_MAX = 4096

# From this size on what came alone stays where it is: a transport may have put less in memory with something else.
ALONE_BYTES = 64 << 10

# Strings below this size are `bytes`.
BYTES_MAX = 64 << 10

# Arrays grow so many times, up to what the queue may hold: everything stands while they are copied, and memory is given
# when it is touched.
GROWTH = 16
# Arrays of which more was touched are copied to smaller ones when not a quarter of it is in use any more.
TOUCHED_BYTES_MAX = 4 << 20

_ROWS_FIRST = 64

_OBJECT, _INT64 = np.dtype(np.object_), np.dtype(np.int64)


class RowStore(ABC):
    """Rows by their slots.

    Args:
        parts: Of each array the shape of an entry, and the dtype; behind them go the numbers of acceptance.
        rows_max: How many rows there mostly are at most; 0: nobody knows.
    """

    def __init__(self, parts: Sequence[_Part], rows_max: int = 0) -> None:
        self._arrays: list[Array] = [np.empty((_ROWS_FIRST, *shape), dtype) for shape, dtype in [*parts, ((), _INT64)]]
        self._slot_bytes = sum([array.nbytes // _ROWS_FIRST for array in self._arrays])
        self._rows_max = rows_max
        self._free: Array = np.empty(_ROWS_FIRST, np.intp)
        self._free_count = 0
        self._slots_used = 0  # those that are free are used first

    def __len__(self) -> int:
        return self._slots_used - self._free_count

    def add(self, segment: Segment, index: Index, numbers: Array) -> Array:
        """Take in rows of a segment, and their numbers of acceptance; return their slots. A failure adds nothing."""
        values = [*self._split(segment, index), numbers]
        again = min(len(numbers), self._free_count)
        used = self._slots_used + len(numbers) - again
        if used > len(self._free):
            grown = min(GROWTH * len(self._free), self._rows_max)
            self._resize(grown if used <= grown else 2 * used)
        left = self._free_count - again
        slots = self._free[left : self._free_count].copy()
        if again < len(numbers):
            slots = np.concatenate([slots, np.arange(self._slots_used, used)])
        for array, value in zip(self._arrays, values, strict=True):
            array[slots] = value
        self._free_count = left
        self._slots_used = used
        return slots

    def take(self, slots: Array) -> Rows:
        """Give out the rows of some slots, in order; the slots are free then. A failure gives out nothing."""
        *values, numbers = [array[slots] for array in self._arrays]
        rows = self._join(values, numbers)
        for array in self._arrays:
            if array.dtype.hasobject:
                array[slots] = None
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)
        return rows

    @property
    def is_sparse(self) -> bool:
        """Whether much memory was touched that is not used any more."""
        return self._slots_used > 4 * len(self) and self._slots_used * self._slot_bytes > TOUCHED_BYTES_MAX

    def pack(self, slots: Array) -> None:
        """Have the rows of all slots that are in use, which are given, in the first ones from now on, in this order.

        Raises:
            MemoryError: There is none to copy them to; all is as it was.
        """
        self._arrays, self._free = self._copied(slots, max(_ROWS_FIRST, 2 * len(slots)))
        self._slots_used, self._free_count = len(slots), 0

    def _resize(self, rows: int) -> None:
        free = self._free[: self._free_count]
        self._arrays, self._free = self._copied(slice(0, self._slots_used), rows)
        self._free[: self._free_count] = free

    def _copied(self, slots: Index, rows: int) -> tuple[list[Array], Array]:
        copies = [np.empty((rows, *array.shape[1:]), array.dtype) for array in self._arrays]
        for copy, array in zip(copies, self._arrays, strict=True):
            rest = array[slots]
            copy[: len(rest)] = rest
        return copies, np.empty(rows, np.intp)

    @abstractmethod
    def _split(self, segment: Segment, index: Index) -> list[Any]:
        """Return what goes to each array."""

    @abstractmethod
    def _join(self, values: list[Array], numbers: Array) -> Rows:
        """Return the rows of which this came from each array."""


def make_store(definition: QueueDefinition) -> RowStore:
    """Return the store of a queue, empty."""
    is_known = all(spec.has_one_shape for spec in definition.element.components)
    return _ColumnStore(definition) if is_known else _SegmentStore(definition)


class _SegmentStore(RowStore):
    """Rows of any shape: each is a segment."""

    def __init__(self, definition: QueueDefinition) -> None:
        super().__init__([((), _OBJECT)])
        self._pages = OwnPages(definition.bytes_max)

    def _split(self, segment: Segment, index: Index) -> list[Any]:
        rows = range(index.start, index.stop) if isinstance(index, slice) else index.tolist()
        return [_objects([segment.row(row, self._pages.copy_column) for row in rows])]

    def _join(self, values: list[Array], numbers: Array) -> Rows:
        rows = Rows()
        for segment, number in zip(values[0], numbers.tolist(), strict=True):
            rows.add(segment, slice(0, 1), number)
        return rows


class _ColumnStore(RowStore):
    """Rows of known shapes: a field for each component."""

    def __init__(self, definition: QueueDefinition) -> None:
        element = definition.element
        pages = OwnPages(definition.bytes_max)
        self._fields = [_field(i, spec, pages) for i, spec in enumerate(element.components)]
        self._prioritised = definition.kind == "PriorityQueue"
        self._row_bytes = element.nbytes
        parts = [part for field in self._fields for part in field.parts]
        if self._row_bytes is None:
            super().__init__([*parts, ((), _INT64)])  # how large each is
            return
        rows = definition.bytes_max // max(1, self._row_bytes)
        super().__init__(parts, rows if definition.capacity == UNBOUNDED else min(rows, definition.capacity))

    def _split(self, segment: Segment, index: Index) -> list[Any]:
        values = [value for field in self._fields for value in field.split(segment, index)]
        return values if self._row_bytes is not None else [*values, segment.bytes_of(index)]

    def _join(self, values: list[Array], numbers: Array) -> Rows:
        row_bytes = values.pop() if self._row_bytes is None else self._row_bytes
        columns: list[Column] = []
        for field in self._fields:
            columns.append(field.join(values[: len(field.parts)]))
            del values[: len(field.parts)]
        priorities: Any = columns[0] if self._prioritised else None
        rows = Rows()
        index = np.arange(len(numbers))  # no slice: what comes back is as it was, whatever is done to a view of it
        rows.add(Segment(len(numbers), tuple(columns), row_bytes, priorities), index, numbers, index)
        return rows


class _Field(Protocol):
    """How a component lies in arrays.

    Attributes:
        parts: The arrays.
    """

    parts: Sequence[_Part]

    def split(self, segment: Segment, index: Index) -> list[Any]:
        """Return what goes to each array."""
        ...

    def join(self, values: Sequence[Array]) -> Column:
        """Return the column of what came from each array."""
        ...


def _field(component: int, spec: TensorSpec, pages: OwnPages) -> _Field:
    if spec.dtype in STRING_DTYPES:
        return _StringRows(component, spec, pages)
    return (_SmallRows if (spec.nbytes or 0) <= SMALL_BYTES_MAX else _LargeRows)(component, spec)


class _SmallRows:
    """Numbers, one behind the other."""

    def __init__(self, component: int, spec: TensorSpec) -> None:
        self._component = component
        self.parts: Sequence[_Part] = [(_shape(spec), numpy_dtype(spec.dtype))]

    def split(self, segment: Segment, index: Index) -> list[Any]:
        return [pad_column(take_rows(segment.columns[self._component], index))]  # sizes are the same in all rows

    def join(self, values: Sequence[Array]) -> Column:
        return values[0]


class _LargeRows:
    """Numbers, each row in an array of its own, or in a piece of a frame."""

    parts: Sequence[_Part] = [((), _OBJECT)]

    def __init__(self, component: int, spec: TensorSpec) -> None:
        self._component = component
        self._row_shape = _shape(spec)
        self._dtype = numpy_dtype(spec.dtype)

    def split(self, segment: Segment, index: Index) -> list[Any]:
        column = segment.columns[self._component]
        if isinstance(column, Scattered):
            return [column.rows[index]]
        values: Any = pad_column(take_rows(column, index))
        is_alone = segment.rows == 1 and values.nbytes >= ALONE_BYTES
        return [_objects(list(values) if is_alone else [value.copy() for value in values])]

    def join(self, values: Sequence[Array]) -> Column:
        return Scattered(values[0], self._row_shape, self._dtype)


class _StringRows:
    """The lengths of the strings of each row, and their bytes."""

    def __init__(self, component: int, spec: TensorSpec, pages: OwnPages) -> None:
        self._component = component
        self._pages = pages
        self.parts: Sequence[_Part] = [(_shape(spec), _INT64), ((), _OBJECT)]

    def split(self, segment: Segment, index: Index) -> list[Any]:
        column = segment.columns[self._component]
        assert isinstance(column, Strings)
        # `bytes` take half of the time and memory, but while they are copied no other thread runs.
        rows = [row.tobytes() if len(row) < BYTES_MAX else self._pages.copy(row) for row in column.values(index)]
        return [column.lengths[index], _objects(rows)]

    def join(self, values: Sequence[Array]) -> Column:
        lengths, rows = values
        return Strings(lengths, np.frombuffer(rows[0] if len(rows) == 1 else b"".join(rows), np.uint8))


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    shape: tuple[int, ...] = spec.shape  # type: ignore[assignment]
    return shape


def _objects(values: Sequence[Any]) -> Array:
    objects = np.empty(len(values), object)
    for i, value in enumerate(values):
        objects[i] = value
    return objects
