"""`Queue.from_list` (semantics 1.11)."""

from __future__ import annotations

from typing import Any

import pytest

import aioflow as flow

A = flow.FIFOQueue(2, ["int32"], [[]])
B = flow.RandomShuffleQueue(4, 1, ["int32"], [[]])


def test_a_queue_is_chosen_by_its_index() -> None:
    """semantics 1.11: from_list chooses a queue at run time; kinds may be mixed."""
    assert flow.Queue.from_list(1, [A, B]) is B


@pytest.mark.parametrize(
    ("index", "queues"),
    [
        (0, []),
        (0, (A, B)),
        (0, [A, "b"]),
        (0, [A, flow.FIFOQueue(2, ["int64"], [[]])]),
        (0, [A, flow.FIFOQueue(2, ["int32"], [[]], names=["x"])]),
        (2, [A, B]),
        (-1, [A, B]),
    ],
    ids=["empty", "no list", "no queue", "dtypes", "names", "too large", "negative"],
)
def test_what_cannot_be_chosen_from_is_refused(index: int, queues: Any) -> None:
    """semantics 1.11: no non-empty list, differing dtypes or names, or an index out of range is an error."""
    with pytest.raises(flow.SpecMismatch):
        flow.Queue.from_list(index, queues)
