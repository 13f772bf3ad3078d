"""How the rows that a get received become columns: stacked, or padded to the largest of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aioflow.specs import STRING_DTYPES, Strings, empty, join_columns, no_memory, numpy_dtype, pad_column, take_rows

if TYPE_CHECKING:
    from aioflow.queues._segments import Rows
    from aioflow.specs import Allocate, Array, Column, ElementSpec, TensorSpec

__all__ = ["gather"]

# Rows of so many bytes are copied one by one: what an index array selects is copied twice, to a new array and from it.
ROW_BYTES_ALONE = 4096


def gather(rows: Rows, element: ElementSpec, allocate: Allocate = no_memory) -> tuple[Column, ...]:
    """Return one column for each component, its rows in the order of the selection.

    Rows that lie together in one segment come as a view of it, others are copied once. Dimensions that vary are filled
    at the end with the dtype's zero, up to the largest of this selection, each component by itself (PaddingFIFOQueue).

    Args:
        rows: The selection.
        element: What the queue holds.
        allocate: Where rows of numbers are copied to.
    """
    return tuple(_gather_component(rows, i, spec, allocate) for i, spec in enumerate(element.components))


def _gather_component(rows: Rows, component: int, spec: TensorSpec, allocate: Allocate) -> Column:
    if len(rows.parts) == 1 and isinstance(rows.parts[0].index, slice):
        return take_rows(rows.parts[0].segment.columns[component], rows.parts[0].index)
    shape = _shape(rows, component, spec)
    if spec.dtype in STRING_DTYPES:
        return _gather_strings(rows, component, shape)
    return _gather_array(rows, component, shape, spec, allocate)


def _shape(rows: Rows, component: int, spec: TensorSpec) -> tuple[int, ...]:
    """The shape of one row: the largest of each dimension; of no rows, 0 where it varies."""
    if not rows.parts:
        return tuple(size or 0 for size in spec.shape or ())
    shapes = {part.segment.columns[component].shape[1:] for part in rows.parts}
    return tuple(max(sizes) for sizes in zip(*shapes, strict=True))


def _gather_array(rows: Rows, component: int, shape: tuple[int, ...], spec: TensorSpec, allocate: Allocate) -> Array:
    columns = [part.segment.columns[component] for part in rows.parts]
    uniform = all(column.shape[1:] == shape for column in columns)
    gathered = empty((rows.count, *shape), numpy_dtype(spec.dtype), allocate)
    if not uniform:
        gathered[:] = 0
    for part, column in zip(rows.parts, columns, strict=True):
        assert not isinstance(column, Strings)
        inner = () if uniform else tuple(slice(0, size) for size in column.shape[1:])
        if isinstance(part.index, slice) or gathered[0].nbytes < ROW_BYTES_ALONE:
            gathered[part.places, *inner] = column[part.index]
            continue
        for place, row in zip(np.arange(rows.count)[part.places].tolist(), part.index.tolist(), strict=True):
            gathered[place, *inner] = column[row]
    return gathered


def _gather_strings(rows: Rows, component: int, shape: tuple[int, ...]) -> Strings:
    taken = [pad_column(take_rows(part.segment.columns[component], part.index), shape) for part in rows.parts]
    if not taken:
        return Strings.encode([], (0, *shape))
    joined = join_columns(taken)
    assert isinstance(joined, Strings)
    places = np.concatenate([np.arange(rows.count)[part.places] for part in rows.parts])
    return joined if (np.diff(places) > 0).all() else joined.take(np.argsort(places))
