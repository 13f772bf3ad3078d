"""Segments that one put can hold together."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from aioflow.queues import Segment
from aioflow.specs import Strings, join_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["join_run"]

# A piece of so many bytes is worth a message of its own: it lies where it goes without a copy. Of two that are a group
# of a megabyte one has as many.
LARGE_BYTES = 1 << 19


def join_run(segments: Sequence[Segment]) -> tuple[Segment, int]:
    """Join the first segments, as many as one put can hold together; return what they become, and how many it is.

    Large ones are not joined, as that would copy them.
    """
    first = _kind_of(segments[0])
    run = list(itertools.takewhile(lambda segment: not _is_large(segment) and _kind_of(segment) == first, segments))
    if len(run) <= 1:
        return segments[0], 1
    columns = tuple(map(join_columns, zip(*(segment.columns for segment in run), strict=True)))
    return Segment.of(columns, prioritised=run[0].priorities is not None), len(run)


def _is_large(segment: Segment) -> bool:
    return segment.nbytes(slice(0, segment.rows)) >= LARGE_BYTES


def _kind_of(segment: Segment) -> list[Any]:
    """What segments that are joined have in common: the shapes of strings, and the ranks of numbers."""
    return [column.shape[1:] if isinstance(column, Strings) else len(column.shape) for column in segment.columns]
