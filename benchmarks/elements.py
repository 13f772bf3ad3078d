"""The elements that are sent, and with which the consumer compares what arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workloads import SHORTEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.workloads import Workload


class Elements:
    """The elements of a workload by their number, which is also their label; the same in every process."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        random = np.random.default_rng(0)
        values = random.integers(0, 256, (workload.pool, *workload.shape), np.uint8)
        self.pool: Any = values.astype(workload.dtype)
        if workload.is_padded:
            lengths = random.integers(SHORTEST, workload.shape[0] + 1, workload.pool)
            self.pool = [payload[:length] for payload, length in zip(self.pool, lengths, strict=True)]

    def __len__(self) -> int:
        """Return how many there are."""
        return self.workload.total

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        """Return one element."""
        return self.pool[number % len(self.pool)], np.int64(number)

    def chunk(self, number: int) -> tuple[Any, Any]:
        """Return a chunk of as many elements as there are in the pool: columns."""
        count = len(self.pool)
        return self.pool, np.arange(number * count, (number + 1) * count)

    def last_values(self) -> list[int | float]:
        """Return the last value of each payload in the pool."""
        return [payload.item(-1) for payload in self.pool]


def stack(payloads: Sequence[Any]) -> Any:
    """Return payloads as a batch, as one writes it by hand; those of several lengths padded with zeros."""
    lengths = list(map(len, payloads))
    if min(lengths) == max(lengths):
        return np.stack(payloads)
    batch = np.zeros((len(payloads), max(lengths)), payloads[0].dtype)
    for row, payload, length in zip(batch, payloads, lengths, strict=True):
        row[:length] = payload
    return batch
