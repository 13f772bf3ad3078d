"""How the rows that a get received become columns: stacked; rows of numbers whose shapes differ wait to be padded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aioflow.specs import STRING_DTYPES, Scattered, Strings, empty, join_columns, no_memory, numpy_dtype, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioflow.queues._segments import Rows
    from aioflow.specs import Allocate, Array, Column, ElementSpec, Index, TensorSpec

__all__ = ["gather"]

# Rows of so many bytes are copied one by one: what an index array selects is copied twice, to a new array and from it.
ROW_BYTES_ALONE = 4096


def gather(rows: Rows, element: ElementSpec, allocate: Allocate = no_memory) -> tuple[Column, ...]:
    """Return one column for each component, its rows in the order of the selection.

    Rows that lie together in one segment come as a view of it, others are copied once. Numbers whose shapes differ come
    as they are: whoever hands them over pads them, and may do so in several batches. Strings are filled at the end of
    each dimension with the empty one, up to the largest of this selection.

    Args:
        rows: The selection.
        element: What the queue holds.
        allocate: Where rows are copied to, but strings and rows of several shapes that come out of order.
    """
    return tuple(_gather_component(rows, i, spec, allocate) for i, spec in enumerate(element.components))


def _gather_component(rows: Rows, component: int, spec: TensorSpec, allocate: Allocate) -> Column:
    if len(rows.parts) == 1:
        part = rows.parts[0]
        column = part.segment.columns[component]
        if isinstance(part.index, slice) and not isinstance(column, Scattered):
            return take_rows(column, part.index)
        if part.is_whole:
            return _copy(column, allocate)
    return (_gather_strings if spec.dtype in STRING_DTYPES else _gather_numbers)(rows, component, spec, allocate)


def _copy(column: Column, allocate: Allocate) -> Column:
    """Return a copy of numbers; of one row, which is large, what lies alone, to be read."""
    if isinstance(column, Scattered):
        if len(column.rows) == 1 and isinstance(row := column.rows[0], np.ndarray):
            view: Array = row[None]
            view.flags.writeable = False  # it may come back
            return view
        copy = empty(column.shape, column.dtype, allocate)
        for place, row in enumerate(column.values(slice(None))):
            copy[place] = row
        return copy
    if not isinstance(column, np.ndarray):
        return column
    copy = empty(column.shape, column.dtype, allocate)
    copy[...] = column
    return copy


def _gather_numbers(rows: Rows, component: int, spec: TensorSpec, allocate: Allocate) -> Column:
    columns = [part.segment.columns[component] for part in rows.parts]
    arrays = [column for column in columns if isinstance(column, (np.ndarray, Scattered))]
    shapes = {array.shape[1:] for array in arrays}
    if len(arrays) < len(columns) or len(shapes) > 1:
        taken = [take_rows(part.segment.columns[component], part.index) for part in rows.parts]
        return _in_order(rows, taken, allocate)
    gathered = empty((rows.count, *(shapes.pop() if shapes else _none(spec))), numpy_dtype(spec.dtype), allocate)
    is_small = gathered.nbytes < ROW_BYTES_ALONE * rows.count
    for part, array in zip(rows.parts, arrays, strict=True):
        if not isinstance(array, Scattered) and (is_small or isinstance(part.index, slice)):
            gathered[part.places] = array[part.index]
            continue
        places = _numbers(part.places).tolist()
        for place, row in zip(places, _values(array, part.index), strict=True):
            gathered[place] = row
    return gathered


def _values(column: Array | Scattered, index: Index) -> Iterable[Array]:
    if isinstance(column, Scattered):
        return column.values(index)
    return (column[row] for row in _numbers(index).tolist())


def _numbers(index: Index) -> Array:
    """The rows that an index names; it must not cost what all rows do, as a batch may have as many parts as rows."""
    return np.arange(index.start, index.stop) if isinstance(index, slice) else index


def _gather_strings(rows: Rows, component: int, spec: TensorSpec, allocate: Allocate) -> Column:
    columns = [part.segment.columns[component] for part in rows.parts]
    if not columns:
        return Strings.encode([], (0, *_none(spec)))
    shape = tuple(max(sizes) for sizes in zip(*(column.shape[1:] for column in columns), strict=True))
    taken = [take_rows(column, part.index) for part, column in zip(rows.parts, columns, strict=True)]
    return _in_order(rows, [column.pad(shape) for column in taken if isinstance(column, Strings)], allocate)


def _none(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of the rows of an empty batch: 0 where it varies."""
    return tuple(size or 0 for size in spec.shape or ())


def _in_order(rows: Rows, taken: list[Column], allocate: Allocate) -> Column:
    """Join what was taken of each part, and bring it into the order of the selection."""
    places = np.concatenate([_numbers(part.places) for part in rows.parts])
    is_ordered = bool((np.diff(places) > 0).all())
    joined = join_columns(taken, allocate if is_ordered else no_memory) if len(taken) > 1 else taken[0]
    return joined if is_ordered else take_rows(joined, np.argsort(places))
