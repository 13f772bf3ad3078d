"""What is carried: elements of a payload and an int64 label, from one producer to one consumer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

# Elements beside the queue's capacity by which a producer may be ahead of its consumer: groups and requests under way.
UNDER_WAY = 1024


@dataclass(frozen=True)
class Workload:
    """One kind of traffic.

    Attributes:
        name: As on the command line.
        says: In a few words, for the table.
        shape: Of the payload.
        dtype: Of the payload.
        capacity: Of the queue between the processes, in elements.
        measured: Elements whose way is timed.
        chunk: Elements that the producer puts at once, or 0: one by one, grouped by the system if it does that.
        batch: Elements that the consumer takes at once, contiguous in memory, or 0: one by one.
    """

    name: str
    says: str
    shape: tuple[int, ...]
    dtype: str
    capacity: int
    measured: int
    chunk: int = 0
    batch: int = 0

    @property
    def around(self) -> int:
        """Elements that go before those that are timed, and again after them.

        It is more than the producer can be ahead: the queue is as full as it gets when the time begins, and the
        producer still works when it ends, so that nothing that is timed was prepared before or is missing at the end.
        """
        return self.capacity + max(UNDER_WAY, self.capacity // 4)

    @property
    def total(self) -> int:
        """Elements that are sent."""
        return self.around + self.measured + self.around

    @property
    def element_bytes(self) -> int:
        """Bytes of one element, the label's 8 included."""
        bits = int(re.sub(r"\D", "", self.dtype))
        return math.prod(self.shape) * bits // 8 + 8

    def small(self) -> Workload:
        """Return the same with a fraction of the elements: to see that everything runs, not how fast."""
        return replace(self, capacity=self.capacity // 16, measured=self.measured // 32)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1s", "small elements one by one, taken one by one", (16,), "float32", 1024, 40_000),
        Workload("W1b", "small elements in chunks of 64, taken by 64", (16,), "float32", 65_536, 768_000, 64, 64),
        Workload("W2", "images one by one, taken in batches of 64", (224, 224, 3), "uint8", 1024, 8_192, batch=64),
    )
}
