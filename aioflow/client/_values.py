"""From columns to what users get: NumPy arrays and scalars, strings, tuples and dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.specs import Strings

if TYPE_CHECKING:
    from aioflow.specs import Column, ElementSpec

__all__ = ["to_user"]


def to_user(columns: tuple[Column, ...], element: ElementSpec, *, single: bool, copy: bool = False) -> Any:
    """Return columns as a batch or, with `single`, their only row as an element; `copy` makes memory private."""
    values = (
        _value(column, spec.dtype, single=single, copy=copy)
        for column, spec in zip(columns, element.components, strict=True)
    )
    return element.join(tuple(values))


def _value(column: Column, dtype: str, *, single: bool, copy: bool) -> Any:
    if isinstance(column, Strings):
        decoded = column.decode(dtype)
        return decoded[0] if single else decoded
    value = column[0] if single else column
    if not isinstance(value, np.ndarray):
        return value  # a NumPy scalar
    if value.base is None:
        return value  # gathered for this call alone
    if copy:
        return value.copy()
    value = value.view()
    value.flags.writeable = False
    return value
