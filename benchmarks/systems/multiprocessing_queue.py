"""multiprocessing.Queue: a pipe, a lock at each end, pickle, and a thread in the producer that feeds the pipe."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

from benchmarks.systems.producer import producing
from benchmarks.systems.put_get import get_all, put_all, put_and_get, send_back

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def consume(workload: Workload) -> Measurement:
    """Take what producers put into the queue; see `benchmarks.systems`."""
    context, capacity = multiprocessing.get_context("spawn"), workload.capacity // (workload.chunk or 1)
    queue: Queue[Any] = context.Queue(capacity)
    back: Queue[Any] = context.Queue(capacity)
    with producing(_produce, workload, queue, back):
        return put_and_get(queue.put, back.get, workload) if workload.there_and_back else get_all(queue.get, workload)


def _produce(workload: Workload, producer: int, queue: Queue[Any], back: Queue[Any]) -> None:
    if workload.there_and_back:
        send_back(queue.get, back.put, workload)
    else:
        put_all(queue.put, workload, producer)
