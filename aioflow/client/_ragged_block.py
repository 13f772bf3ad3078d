"""Single elements gathered as they are written, where sizes vary: strings and numbers of known ranks, one copy each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.client._block import Block
from aioflow.errors import SpecMismatch
from aioflow.queues import Segment
from aioflow.specs import STRING_DTYPES, ElementSpec, Ragged, Strings, TensorSpec, empty, numpy_dtype

if TYPE_CHECKING:
    from aioflow.queues import QueueDefinition
    from aioflow.specs import Allocate, Array, Column

__all__ = ["RaggedBlock"]

# Of the most memory for values one row has at most such a share.
SHARE = 16
# Fewer values travel in packets, which copies them.
COPIED_BYTES_MAX = 64 << 10
# What the first memory for values has; each next one has twice as much.
FIRST_BYTES = 128 << 10


class RaggedBlock:
    """Rows to come, of a queue of numbers of known ranks and single strings, of which at least one varies in size.

    Components of one size are in a `Block`.

    Attributes:
        count: Rows in it.
        room: How many it can hold before it is taken, while there is room for their values.
    """

    def __init__(self, definition: QueueDefinition, rows_max: int, bytes_max: int, allocate: Allocate) -> None:
        """Allocate nothing yet; the values of a component that varies will be gathered in memory of up to `bytes_max`.

        Those of rows to come lie behind those of rows that were taken, as in a block, as long as there is room. Rows of
        which a component has more than a sixteenth of that are left to others: with them, a part would stay empty.
        """
        element = definition.element
        self.count = 0
        self.room = rows_max
        self._element = element
        self._width = len(element.components)
        self._is_named = element.names is not None
        parts = list(enumerate(element.components))
        self._prioritised = definition.kind == "PriorityQueue"
        self._varying = [
            (_StringValues if component.dtype in STRING_DTYPES else _Values)(i, component, bytes_max, allocate)
            for i, component in parts
            if component.nbytes is None
        ]
        self._fixed = [i for i, component in parts if component.nbytes is not None]
        fixed = ElementSpec(tuple(element.components[i] for i in self._fixed))
        if fixed.nbytes:
            self.room = max(1, min(rows_max, bytes_max // fixed.nbytes))
        self._block = Block(replace(definition, element=fixed), fixed.nbytes or 0, self.room, allocate)

    @staticmethod
    def takes(element: ElementSpec) -> bool:
        """Whether elements that vary in size can be gathered: no arrays of strings, no unknown ranks."""
        specs = element.components
        return all(spec.shape == () if spec.dtype in STRING_DTYPES else spec.shape is not None for spec in specs)

    @property
    def nbytes(self) -> int:
        """Payload bytes of its rows."""
        return self._block.nbytes + sum(values.nbytes for values in self._varying)

    def rows_within(self, rows: int, nbytes: int) -> int:
        """Return how many rows, of so many, may be added before it has to be looked whether they have so many bytes."""
        if not self.count:  # nothing is known of their size
            return min(rows, 1)
        mean = self.nbytes // self.count
        return min(rows, self.room - self.count, nbytes // max(1, 2 * mean))  # half of what is left, by those so far

    def add(self, element: Any) -> bool:
        """Copy in an element that has exactly the dtypes and shapes, if there is room; say whether it was."""
        if type(element) is not tuple or self._is_named:
            try:
                element = self._element.split(element)
            except SpecMismatch:
                return False
        if len(element) != self._width or self.count == self.room:
            return False
        fixed = self._fixed
        if fixed and not self._block.add((element[fixed[0]],) if len(fixed) == 1 else [element[i] for i in fixed]):
            return False
        for values in self._varying:
            if not values.add(element[values.component]):
                break
        else:
            self.count += 1
            return True
        for values in self._varying:
            values.keep(self.count)
        self._block.count = self.count
        return False

    def add_row(self, columns: tuple[Column, ...]) -> bool:
        """Copy in columns of one row, if there is room for its values; say whether there was."""
        values = [each.data.tobytes() if isinstance(each, Strings) else each[0] for each in columns]  # type: ignore[index]
        return self.add(tuple(values))

    def make_room(self, rows: int) -> None:
        """Begin anew where there is no room for so many rows, as a block does."""
        if self._fixed:
            self._block.make_room(rows)
            self.room = self._block.room

    def take(self) -> Segment:
        """Return the rows, and begin anew."""
        columns: dict[int, Column] = {values.component: values.take(self.count) for values in self._varying}
        if self._fixed:
            columns.update(zip(self._fixed, self._block.take().columns, strict=True))
            self.room = self._block.room
        self.count = 0
        return Segment.of(tuple([columns[i] for i in range(len(columns))]), prioritised=self._prioritised)


class _Values:
    """The values of one component that varies, row after row."""

    __slots__ = (
        "_allocate",
        "_data",
        "_dtype",
        "_end",
        "_first",
        "_is_full",
        "_known",
        "_rank",
        "_room",
        "_room_max",
        "_room_next",
        "_sizes",
        "component",
    )

    def __init__(self, component: int, spec: TensorSpec, bytes_max: int, allocate: Allocate) -> None:
        assert spec.shape is not None, "takes() has said so"
        self.component = component
        self._allocate = allocate
        self._dtype = numpy_dtype(spec.dtype)
        self._rank = len(spec.shape)
        self._known = [(i, size) for i, size in enumerate(spec.shape) if size is not None]
        self._room_max = bytes_max // self._dtype.itemsize
        self._room_next = min(self._room_max, FIRST_BYTES // self._dtype.itemsize)
        self._room = 0
        self._data: Array | None = None
        self._first = self._end = 0  # of the values that were not taken
        self._is_full = False  # and the next row goes to other memory
        self._sizes: list[int] = []

    @property
    def nbytes(self) -> int:
        return (self._end - self._first) * self._dtype.itemsize

    def add(self, value: Any) -> bool:
        """Copy in an array that has exactly the dtype and shape, if there is room; say whether it was."""
        if type(value) is not np.ndarray or value.dtype is not self._dtype or value.ndim != self._rank:
            return False
        if self._known and any(value.shape[i] != known for i, known in self._known):
            return False
        return self._append(value if self._rank == 1 else value.reshape(-1), value.shape)

    def _append(self, values: Array, sizes: tuple[int, ...]) -> bool:
        start, data = self._end, self._data
        end = start + len(values)
        if data is None or end > self._room:
            if SHARE * len(values) > self._room_max:
                return False
            if start > self._first:
                self._is_full = True
                return False
            # So that where there are few values, in many components, each takes little.
            self._room = min(self._room_max, max(self._room_next, SHARE * len(values)))
            self._room_next = 2 * self._room
            data = self._data = empty((self._room,), self._dtype, self._allocate)
            start, end = 0, len(values)
            self._first = 0
        data[start:end] = values
        self._sizes += sizes
        self._end = end
        return True

    def keep(self, rows: int) -> None:
        """Forget what came behind so many rows."""
        first = rows * self._rank
        if len(self._sizes) > first:
            self._end -= math.prod(self._sizes[first:])
            del self._sizes[first:]

    def take(self, rows: int) -> Column:
        """Return all rows. Few values and single rows are copied: they would keep the memory of many. Others follow."""
        sizes = np.array(self._sizes, np.int64).reshape(rows, self._rank)
        self._sizes = []
        if self._data is None:  # no row has a value
            return self._join(sizes, np.empty(0, self._dtype))
        data = self._data[self._first : self._end]
        if data.nbytes < COPIED_BYTES_MAX or rows == 1:
            data = data.copy()
            self._end = self._first
        self._first = self._end
        if self._is_full:
            self._data, self._is_full = None, False
            self._first = self._end = 0
        for array in (sizes, data):
            array.flags.writeable = False
        return self._join(sizes, data)

    def _join(self, sizes: Array, data: Array) -> Column:
        return Ragged(sizes, data)


class _StringValues(_Values):
    """The bytes of one component that is a string."""

    __slots__ = ("_is_text",)

    def __init__(self, component: int, spec: TensorSpec, bytes_max: int, allocate: Allocate) -> None:
        super().__init__(component, TensorSpec("uint8", (None,)), bytes_max, allocate)
        self._is_text = spec.dtype == "str"

    def add(self, value: Any) -> bool:
        """Copy in a string, if there is room; say whether it was."""
        try:
            if type(value) is str:
                value = value.encode()
            elif type(value) is bytes and self._is_text:
                value.decode()
        except UnicodeError:
            return False
        return type(value) is bytes and self._append(np.frombuffer(value, np.uint8), (len(value),))

    def _join(self, sizes: Array, data: Array) -> Column:
        return Strings(sizes[:, 0], data)
