"""The elements that are sent, and with which the consumer compares what arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

# Payloads that take turns, so that what is sent is not always in the nearest cache.
POOL = 64


class Elements:
    """The elements of a workload by their number, which is also their label; the same in every process."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        values = np.random.default_rng(0).integers(0, 256, (POOL, *workload.shape))
        self.pool = values.astype(workload.dtype)

    def __len__(self) -> int:
        """Return how many there are."""
        return self.workload.total

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        """Return one element."""
        return self.pool[number % POOL], np.int64(number)

    def chunk(self, number: int) -> tuple[Any, Any]:
        """Return a chunk of as many elements as there are in the pool: columns."""
        return self.pool, np.arange(number * POOL, (number + 1) * POOL)

    def last_values(self) -> list[int | float]:
        """Return the last value of each payload in the pool."""
        return [payload.item(-1) for payload in self.pool]
