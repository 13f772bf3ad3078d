"""multiprocessing.Queue: a pipe, a lock at each end, pickle, and a thread in the producer that feeds the pipe.

What a user writes with it: where single elements are put, the consumer stacks them to batches.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def consume(workload: Workload) -> Measurement:
    """Take what a producer puts into the queue; see `benchmarks.systems`."""
    queue: Queue[Any] = multiprocessing.get_context("spawn").Queue(workload.capacity // (workload.chunk or 1))
    meter = Meter(workload)
    with producing(_produce, queue, workload):
        while meter.count < workload.total:
            if workload.chunk:
                meter.batch(*queue.get())
            elif workload.batch:
                payloads, labels = zip(*(queue.get() for _ in range(workload.batch)), strict=True)
                meter.batch(np.stack(payloads), np.stack(labels))
            else:
                meter.element(*queue.get())
    return meter.result()


def _produce(queue: Queue[Any], workload: Workload) -> None:
    elements = Elements(workload)
    if workload.chunk:
        for number in range(workload.total // workload.chunk):
            queue.put(elements.chunk(number))
    else:
        for number in range(workload.total):
            queue.put(elements[number])
