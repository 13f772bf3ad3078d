"""What a broker lets in and out: the other side may not be an aioflow client, so what that checks is checked again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from aioflow.errors import QueueError, SpecMismatch
from aioflow.specs import STRING_DTYPES, Ragged, column_row_bytes, pad_column
from aioflow.transport import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.errors import AioflowError
    from aioflow.queues import QueueDefinition, Rows
    from aioflow.specs import Array, Column, Dense, ElementSpec, Index
    from aioflow.transport import AnyFrame

__all__ = ["check_batch", "check_columns", "check_count", "check_frames", "pad_columns"]

# Rows of one put whose elements have no bytes: no frame pays for them, and a shuffle keeps 24 bytes of each.
EMPTY_ROWS_MAX = 65_536
# Of strings, padding adds lengths, which are int64.
LENGTH_BYTES = 8


def check_columns(
    element: ElementSpec, columns: Sequence[Column], dtypes: Sequence[str], rows: int | None = None
) -> None:
    """Refuse columns that a specification does not admit, or that have not this number of rows."""
    components = element.components
    if element.dtypes != (*dtypes,):
        raise SpecMismatch(f"got components of {list(dtypes)}; expected {', '.join(map(str, components))}")
    count: int = columns[0].shape[0] if rows is None else rows
    for i, (column, component) in enumerate(zip(columns, components, strict=True)):
        if column.shape[0] != count or not component.admits_rows(column):
            raise SpecMismatch(f"component {i} has shape {list(column.shape)}; expected {count} rows of {component}")
    if count > EMPTY_ROWS_MAX and not any(math.prod(column.shape) for column in columns):
        raise SpecMismatch(f"got {count} elements without a byte; expected at most {EMPTY_ROWS_MAX} of those at once")


def check_count(definition: QueueDefinition, count: int) -> None:
    """Refuse a batch of elements whose shapes may differ in rank."""
    if count != 1 and any(component.shape is None for component in definition.element.components):
        raise SpecMismatch("the queue was defined without shapes: its elements cannot be batched; take them one by one")


def check_batch(rows: Rows, element: ElementSpec) -> None:
    """Refuse a batch of which a component does not fit into a frame, strings after padding, before it is made."""
    for i, component in enumerate(element.components):
        if component.dtype in STRING_DTYPES:
            shapes = {part.segment.columns[i].shape[1:] for part in rows.parts}
            padded = math.prod(max(sizes) for sizes in zip(*shapes, strict=True))
            _check_bytes(rows.count * padded * LENGTH_BYTES, f"a batch of {rows.count} elements", QueueError)
        elif rows.nbytes > FRAME_BYTES_MAX:
            nbytes = sum(_nbytes(part.segment.columns[i], part.index) for part in rows.parts)
            _check_bytes(nbytes, f"a batch of {rows.count} elements", QueueError)


def pad_columns(columns: tuple[Column, ...]) -> tuple[Dense, ...]:
    """Return columns of which those of numbers are arrays: padded, unless that takes more than a server would send.

    Raises:
        QueueError: It does.
    """
    return tuple([_pad(column) if isinstance(column, Ragged) else pad_column(column) for column in columns])


def check_frames(frames: Sequence[AnyFrame], what: str, error: type[AioflowError]) -> None:
    """Refuse columns that do not fit into a frame each.

    Raises:
        AioflowError: Of the given class, beginning with the words that say what it is.
    """
    for frame in frames:
        if len(frame) > FRAME_BYTES_MAX:
            _check_bytes(len(frame), what, error)


def _check_bytes(nbytes: int, what: str, error: type[AioflowError]) -> None:
    if nbytes > FRAME_BYTES_MAX:
        raise error(
            f"{what}: one component has {nbytes} bytes (after padding, if any), and {FRAME_BYTES_MAX} of each travel "
            "at once; put or take fewer elements at a time, or smaller ones"
        )


def _pad(column: Ragged) -> Array:
    shape = column.shape
    _check_bytes(math.prod(shape) * column.data.itemsize, f"a batch of {shape[0]} elements", QueueError)
    return column.pad(shape)


def _nbytes(column: Column, index: Index) -> int:
    return int(np.broadcast_to(column_row_bytes(column), column.shape[0])[index].sum())
