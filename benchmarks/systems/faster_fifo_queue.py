"""faster-fifo: a ring of bytes in shared memory, a lock and conditions, pickle; the consumer gets many at once."""

from __future__ import annotations

from collections import deque
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.systems.producer import producing
from benchmarks.systems.put_get import get_all, put_all, put_and_get, send_back

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

faster_fifo: Any = import_module("faster_fifo")  # types are checked where there is none, too
import_module("faster_fifo_reduction")  # which has its queues passed to processes that are spawned

FOREVER_S = 1e6  # it gives up after 10 s otherwise
PICKLED_BYTES = 400  # what pickle adds to an element or a chunk, at most


def consume(workload: Workload) -> Measurement:
    """Take what producers put into the queue; see `benchmarks.systems`."""
    objects = workload.capacity // (workload.chunk or 1)
    space = workload.capacity * workload.element_bytes + objects * PICKLED_BYTES
    queue, back = (faster_fifo.Queue(max_size_bytes=space, maxsize=objects) for _ in range(2))
    with producing(_produce, workload, queue, back):
        if workload.there_and_back:
            return put_and_get(_put(queue), partial(next, _objects(back)), workload)
        return get_all(partial(next, _objects(queue)), workload)


def _produce(workload: Workload, producer: int, queue: Any, back: Any) -> None:
    if workload.there_and_back:
        send_back(partial(next, _objects(queue)), _put(back), workload)
    else:
        put_all(_put(queue), workload, producer)


def _put(queue: Any) -> Any:
    return partial(queue.put, timeout=FOREVER_S)


def _objects(queue: Any) -> Generator[Any]:
    ready: deque[Any] = deque()
    while True:
        if not ready:
            ready.extend(queue.get_many(timeout=FOREVER_S))
        yield ready.popleft()
