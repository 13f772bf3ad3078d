"""What is carried: elements of a payload and an int64 label, from producers to one consumer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

# The least length of a payload of variable length.
SHORTEST = 16

# What payloads that take turns may have together, beyond the caches of most machines.
POOL_BYTES = 1 << 26


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
        queue: The class of queue, where a system has several; of a PaddingFIFOQueue the shape is the longest payload's.
        copy: Whether the consumer wants memory of its own, to write to.
        producers: Processes that put, each its share of the elements.
        there_and_back: Whether the consumer itself puts each element, and takes it when another process has sent it
            back through a second queue, before it puts the next.
        under_way: Elements beside the capacity by which producers may be ahead: groups and requests under way. Where
            elements are large it is as many as it takes until all memory was touched.
    """

    name: str
    says: str
    shape: tuple[int, ...]
    dtype: str
    capacity: int
    measured: int
    chunk: int = 0
    batch: int = 0
    queue: str = "FIFOQueue"
    copy: bool = False
    producers: int = 1
    there_and_back: bool = False
    under_way: int = 1024

    @property
    def around(self) -> int:
        """Elements that go before those that are timed, and again after them.

        It is more than the producer can be ahead: the queue is as full as it gets when the time begins, and the
        producer still works when it ends, so that nothing that is timed was prepared before or is missing at the end.
        """
        return self.capacity + max(self.under_way, self.capacity // 4)

    @property
    def total(self) -> int:
        """Elements that are sent."""
        return self.around + self.measured + self.around

    @property
    def is_padded(self) -> bool:
        """Whether payloads differ in length, and are padded to batches."""
        return self.queue == "PaddingFIFOQueue"

    @property
    def is_in_order(self) -> bool:
        """Whether elements arrive in the order of their numbers."""
        return self.queue != "RandomShuffleQueue" and self.producers == 1

    @property
    def payload_bytes(self) -> int:
        """Bytes of one payload; where they differ, of one of the mean length."""
        bits = int(re.sub(r"\D", "", self.dtype))
        count = (SHORTEST + self.shape[0]) // 2 if self.is_padded else math.prod(self.shape)
        return count * bits // 8

    @property
    def element_bytes(self) -> int:
        """Bytes of one element, the label's 8 included."""
        return self.payload_bytes + 8

    @property
    def pool(self) -> int:
        """Payloads that take turns, so that what is sent is not always in the nearest cache."""
        return min(64, POOL_BYTES // self.payload_bytes)

    def numbers(self, producer: int) -> range:
        """Return the numbers of the elements that one of the producers puts."""
        return range(producer, self.total, self.producers)

    def small(self) -> Workload:
        """Return the same with a fraction of the elements: to see that everything runs, not how fast."""
        return replace(
            self, capacity=self.capacity // 16, measured=self.measured // 96, under_way=max(1, self.under_way // 8)
        )


_IMAGES = Workload(
    "W2", "images one by one, taken in batches of 64", (224, 224, 3), "uint8", 1024, 24_576, batch=64, under_way=4096
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1s", "small elements one by one, taken one by one", (16,), "float32", 1024, 40_000),
        Workload("W1b", "small elements in chunks of 64, taken by 64", (16,), "float32", 65_536, 768_000, 64, 64),
        _IMAGES,
        replace(_IMAGES, name="W2-shuffle", says="the same, shuffled", queue="RandomShuffleQueue"),
        replace(_IMAGES, name="W2-copy", says="the same, in memory that is the consumer's own", copy=True),
        replace(_IMAGES, name="W2-two", says="the same from two producers", producers=2),
        Workload(
            "W3",
            "rows of 16 to 512 numbers one by one, taken in padded batches of 32",
            (512,),
            "int32",
            1024,
            61_440,
            batch=32,
            queue="PaddingFIFOQueue",
        ),
        Workload(
            "W4", "tensors of 4 MiB one by one, taken one by one", (1024, 1024), "float32", 64, 1_536, under_way=192
        ),
        Workload(
            "W5", "a small element there and back", (16,), "float32", 64, 4_000, there_and_back=True, under_way=64
        ),
    )
}
