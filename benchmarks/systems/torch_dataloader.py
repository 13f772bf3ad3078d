"""torch.utils.data.DataLoader with one worker process, which makes the batches and hands them over in shared memory.

It takes single elements from its data set and collates batches of 64 by itself; there is nothing to give it chunks by.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.elements import Elements
from benchmarks.meter import Meter

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

data: Any = import_module("torch.utils.data")  # types are checked where there is no torch, too


def consume(workload: Workload) -> Measurement:
    """Take the batches of a loader; see `benchmarks.systems`."""
    loader = data.DataLoader(Elements(workload), workload.batch, num_workers=1, multiprocessing_context="spawn")
    meter = Meter(workload)
    for payload, labels in loader:
        meter.batch(payload.numpy(), labels.numpy())
    return meter.result()
