"""From columns to what users get: NumPy arrays and scalars, strings, tuples and dicts; and numbers of elements."""

from __future__ import annotations

import operator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.errors import SpecMismatch
from aioflow.specs import ElementSpec, Strings, to_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.queues import QueueDefinition
    from aioflow.specs import Column, Dense, TensorSpec

__all__ = ["check_batch", "check_count", "convert_feed", "reader", "to_user", "values_of"]

# TensorFlow's numbers of elements are int32.
COUNT_MAX = 2**31 - 1


def to_user(columns: tuple[Dense, ...], element: ElementSpec, *, single: bool, copy: bool = False) -> Any:
    """Return columns as a batch or, with `single`, their only row as an element; `copy` makes memory private."""
    return reader(element, single=single, copy=copy)(columns)


def reader(
    element: ElementSpec, *, single: bool, copy: bool = False, on_device: bool = False
) -> Callable[[tuple[Any, ...]], Any]:
    """Return `to_user` with everything but the columns chosen, for use again and again; they may be on a device."""
    dtypes = [component.dtype for component in element.components]
    read = _read_row if single else _read_on_device if on_device else partial(_read_batch, copy=copy)
    if len(dtypes) == 1 and element.names is None:
        dtype = dtypes[0]
        return lambda columns: read(columns[0], dtype)
    if element.names is not None:
        return lambda columns: element.join(tuple(map(read, columns, dtypes)))
    return lambda columns: tuple(map(read, columns, dtypes))


def values_of(columns: tuple[Column, ...], element: ElementSpec, count: int) -> list[Any]:
    """Return rows that have one size as batches of `count` rows or, where that is 0, as single elements."""
    parts = [_list_rows(column, count) for column in columns]
    if len(parts) == 1 and element.names is None:
        return parts[0]
    rows = zip(*parts, strict=True)
    return list(rows) if element.names is None else [element.join(row) for row in rows]


def convert_feed(value: Any, spec: TensorSpec) -> Any:
    """Return a value that was fed as what the specification says.

    Raises:
        SpecMismatch: It does not fit.
    """
    element = ElementSpec((spec,))
    return to_user(to_columns((value,), element, many=False), element, single=True)


def check_count(n: Any) -> int:
    """Return a number of elements as an int.

    Raises:
        SpecMismatch: It is no integer, negative, or more than a message can carry.
    """
    try:
        count = operator.index(n)
    except TypeError as error:
        raise SpecMismatch(f"the number of elements must be an integer, got {n!r}") from error
    if not 0 <= count <= COUNT_MAX:
        raise SpecMismatch(f"the number of elements is {count}; expected 0 to {COUNT_MAX}")
    return count


def check_batch(definition: QueueDefinition, count: int, name: str) -> None:
    """Refuse a batch that a queue can never give.

    Raises:
        SpecMismatch: Its elements cannot be batched, or a PriorityQueue cannot hold so many.
    """
    if any(component.shape is None for component in definition.element.components):
        raise SpecMismatch(
            f"queue {name!r} was defined without shapes: its elements cannot be batched; "
            "give shapes=, or take them one by one with dequeue()"
        )
    if definition.kind == "PriorityQueue":
        if 0 < definition.capacity < count:
            raise SpecMismatch(
                f"queue {name!r} is a PriorityQueue, which takes a batch all at once: "
                f"{count} elements can never be in a capacity of {definition.capacity}"
            )
        definition.check_reserve(count, f"queue {name!r}: a batch of {count}")


def _read_row(column: Dense, dtype: str) -> Any:
    if isinstance(column, Strings):
        return column.decode(dtype)[0]
    value = column[0]
    if isinstance(value, np.ndarray):  # else it is a NumPy scalar
        value.flags.writeable = False  # a view of the column
    return value


def _list_rows(column: Column, count: int) -> list[Any]:
    assert isinstance(column, np.ndarray), "rows of one size are in an array"
    rows = column.view()
    rows.flags.writeable = False  # and so is each part of it
    return [rows[start : start + count] for start in range(0, len(rows), count)] if count else list(rows)


def _read_on_device(column: Any, dtype: str) -> Any:
    return column.decode(dtype) if isinstance(column, Strings) else column


def _read_batch(column: Dense, dtype: str, *, copy: bool) -> Any:
    if isinstance(column, Strings):
        return column.decode(dtype)
    if column.base is None:
        return column  # gathered for this call alone
    if copy:
        return column.copy()
    value = column.view()
    value.flags.writeable = False
    return value
