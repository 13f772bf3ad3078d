"""torch.utils.data.DataLoader with worker processes, which make the batches and hand them over in shared memory.

It takes single elements from its data set and collates batches by itself; there is nothing to give it chunks by.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements, stack
from benchmarks.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

torch: Any = import_module("torch")  # types are checked where there is no torch, too
data: Any = import_module("torch.utils.data")


def consume(workload: Workload) -> Measurement:
    """Take the batches of a loader, with a worker for each producer; see `benchmarks.systems`."""
    loader = data.DataLoader(
        Elements(workload),
        workload.batch,
        num_workers=workload.producers,
        multiprocessing_context="spawn",
        collate_fn=_pad if workload.is_padded else None,
    )
    meter = Meter(workload)
    for payload, labels in loader:
        meter.batch(payload.numpy(), labels.numpy())
    return meter.result()


def _pad(elements: Sequence[Any]) -> tuple[Any, Any]:
    payloads, labels = zip(*elements, strict=True)
    return torch.from_numpy(stack(payloads)), torch.from_numpy(np.stack(labels))
