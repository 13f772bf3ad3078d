"""Ray's queue: an actor that holds Python objects, and tasks that call it."""

from __future__ import annotations

import os
import secrets
import tempfile
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.systems.put_get import get_all, put_all, put_and_get, send_back

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

# A token of its own for each run, which nothing keeps; and no reports of use.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

ray: Any = import_module("ray")  # types are checked where there is none, too
ray_queue: Any = import_module("ray.util.queue")


def consume(workload: Workload) -> Measurement:
    """Take what tasks put into the queue; see `benchmarks.systems`."""
    with tempfile.TemporaryDirectory() as folder:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            return _consume(workload)
        finally:
            ray.shutdown()


def _consume(workload: Workload) -> Measurement:
    capacity = workload.capacity // (workload.chunk or 1)
    queue, back = (ray_queue.Queue(capacity) for _ in range(2))
    produce = ray.remote(num_cpus=0)(_produce)
    producing = [produce.remote(workload, producer, queue, back) for producer in range(workload.producers)]
    if workload.there_and_back:
        measurement = put_and_get(queue.put, back.get, workload)
    else:
        measurement = get_all(queue.get, workload)
    ray.get(producing)
    return measurement


def _produce(workload: Workload, producer: int, queue: Any, back: Any) -> None:
    if workload.there_and_back:
        send_back(queue.get, back.put, workload)
    else:
        put_all(queue.put, workload, producer)
