"""multiprocessing.Queue where the producer puts a whole batch as one object, a list of elements."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements, stack
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def consume(workload: Workload) -> Measurement:
    """Take the lists that a producer puts into the queue; see `benchmarks.systems`."""
    queue: Queue[Any] = multiprocessing.get_context("spawn").Queue(workload.capacity // workload.batch)
    meter = Meter(workload)
    with producing(_produce, workload, queue):
        while meter.count < workload.total:
            payloads, labels = zip(*queue.get(), strict=True)
            meter.batch(stack(payloads), np.stack(labels))
    return meter.result()


def _produce(workload: Workload, _producer: int, queue: Queue[Any]) -> None:
    elements = Elements(workload)
    for first in range(0, workload.total, workload.batch):
        queue.put([elements[number] for number in range(first, first + workload.batch)])
