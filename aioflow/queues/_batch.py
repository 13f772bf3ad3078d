"""How the rows that a get received become columns: stacked; rows of numbers whose shapes differ wait to be padded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aioflow.specs import STRING_DTYPES, Strings, join_columns, numpy_dtype, take_rows

if TYPE_CHECKING:
    from aioflow.queues._segments import Rows
    from aioflow.specs import Array, Column, ElementSpec, TensorSpec

__all__ = ["gather"]


def gather(rows: Rows, element: ElementSpec) -> tuple[Column, ...]:
    """Return one column for each component, its rows in the order of the selection.

    Rows that lie together in one segment come as a view of it, others are copied once. Numbers whose shapes differ come
    as they are: whoever hands them over pads them, and may do so in several batches. Strings are filled at the end of
    each dimension with the empty one, up to the largest of this selection.
    """
    return tuple(_gather_component(rows, i, spec) for i, spec in enumerate(element.components))


def _gather_component(rows: Rows, component: int, spec: TensorSpec) -> Column:
    if len(rows.parts) == 1 and isinstance(rows.parts[0].index, slice):
        return take_rows(rows.parts[0].segment.columns[component], rows.parts[0].index)
    if spec.dtype in STRING_DTYPES:
        return _gather_strings(rows, component, spec)
    columns = [part.segment.columns[component] for part in rows.parts]
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    shapes = {array.shape[1:] for array in arrays}
    if len(arrays) < len(columns) or len(shapes) > 1:
        return _in_order(rows, [take_rows(part.segment.columns[component], part.index) for part in rows.parts])
    shape = shapes.pop() if shapes else _none(spec)
    gathered: Array = np.empty((rows.count, *shape), numpy_dtype(spec.dtype))
    for part, array in zip(rows.parts, arrays, strict=True):
        gathered[part.places] = array[part.index]
    return gathered


def _gather_strings(rows: Rows, component: int, spec: TensorSpec) -> Column:
    columns = [part.segment.columns[component] for part in rows.parts]
    if not columns:
        return Strings.encode([], (0, *_none(spec)))
    shape = tuple(max(sizes) for sizes in zip(*(column.shape[1:] for column in columns), strict=True))
    taken = [take_rows(column, part.index) for part, column in zip(rows.parts, columns, strict=True)]
    return _in_order(rows, [column.pad(shape) for column in taken if isinstance(column, Strings)])


def _none(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of the rows of an empty batch: 0 where it varies."""
    return tuple(size or 0 for size in spec.shape or ())


def _in_order(rows: Rows, taken: list[Column]) -> Column:
    """Join what was taken of each part, and bring it into the order of the selection."""
    joined = join_columns(taken)
    places = np.concatenate([np.arange(rows.count)[part.places] for part in rows.parts])
    return joined if (np.diff(places) > 0).all() else take_rows(joined, np.argsort(places))
