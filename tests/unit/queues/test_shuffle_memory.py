"""What a shuffle holds in memory beside its rows, and what it copies to hold no more."""

from __future__ import annotations

import numpy as np
import pytest

from aioflow.queues import Segment
from aioflow.queues._order import SEGMENT_BYTES_SLACK, ShuffleOrder

CAPACITY = 1024
BATCH = 64
POPPED = 20_000


@pytest.mark.parametrize("rows_bytes", [150_536, 30_000])
@pytest.mark.parametrize("group", [64, 192])
def test_what_is_held_is_bounded_and_few_rows_are_copied_for_it(
    group: int, rows_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never more than twice the rows and a megabyte; about a third of the rows are copied, and none is mixed up."""
    copied = 0
    select = Segment.select

    def count(segment: Segment, index: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Segment:
        nonlocal copied
        copied += len(index)
        return select(segment, index)

    monkeypatch.setattr(Segment, "select", count)
    order = ShuffleOrder(np.random.default_rng(0))
    came: list[int] = []
    number = 0
    while len(came) < POPPED:
        while len(order) + group <= CAPACITY:
            values = np.arange(number, number + group)
            order.push(Segment(group, (values,), rows_bytes), 0, group, number)
            number += group
        for part in order.pop(BATCH).parts:
            column = part.segment.columns[0]
            assert isinstance(column, np.ndarray)
            assert (column[part.index] == part.numbers).all()
            came += column[part.index].tolist()
        assert order._segment_bytes <= 2 * order._row_bytes + SEGMENT_BYTES_SLACK
        assert order._row_bytes == len(order) * rows_bytes
        assert order._segment_bytes == sum(segment.rows for segment in order._segments.values()) * rows_bytes
    assert len(set(came)) == len(came)
    assert copied < 0.45 * len(came)
