"""aioflow with the payload in ZeroMQ's frames: the same, for clients that cannot share memory with the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.systems import aioflow_queue

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def consume(workload: Workload) -> Measurement:
    """Take what producers put into a queue of a server; see `benchmarks.systems`."""
    return aioflow_queue.consume(workload, shared=False)
