"""What it takes to gather a batch."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from aioflow.queues import Rows, Segment, gather
from aioflow.specs import ElementSpec, Strings, TensorSpec

ROWS = 3000
# Of each row some arrays of a few hundred bytes; an array of all rows for each row would be 24 KB.
ROW_BYTES_MAX = 4000


@pytest.mark.parametrize("dtype", ["bytes", "int64", "uint8"])
def test_rows_that_came_one_by_one_take_memory_each_for_itself(dtype: str) -> None:
    """And not an array of all rows for each of them."""
    shape: tuple[int, ...] = (ROW_BYTES_MAX + 1000,) if dtype == "uint8" else ()
    element = ElementSpec((TensorSpec(dtype, shape),))
    rows = Rows()
    for number in range(ROWS):
        column: Any = np.array([number]) if dtype == "int64" else np.zeros((1, *shape), np.uint8)
        if dtype == "bytes":
            column = Strings.encode([b"%d" % number], (1,))
        rows.add(Segment.of((column,)), slice(0, 1), number)
    tracemalloc.start()
    try:
        (gathered,) = gather(rows, element)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert gathered.shape[0] == ROWS
    if isinstance(gathered, Strings):
        assert gathered.decode("bytes").tolist() == [b"%d" % number for number in range(ROWS)]
    assert peak < ROWS * (ROW_BYTES_MAX + (element.nbytes or 0))
