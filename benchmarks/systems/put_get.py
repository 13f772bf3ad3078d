"""What a user writes with a queue that puts and gets Python objects: where single ones are put, one stacks batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.elements import Elements, stack
from benchmarks.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload


def put_all(put: Callable[[Any], object], workload: Workload, producer: int) -> None:
    """Put what one of the producers puts; a chunk is one object, a tuple of arrays."""
    elements = Elements(workload)
    if workload.chunk:
        for number in range(workload.total // workload.chunk):
            put(elements.chunk(number))
    else:
        for number in workload.numbers(producer):
            put(elements[number])


def get_all(get: Callable[[], Any], workload: Workload) -> Measurement:
    """Get everything."""
    meter = Meter(workload)
    while meter.count < workload.total:
        if workload.chunk:
            meter.batch(*get())
        elif workload.batch:
            payloads, labels = zip(*(get() for _ in range(workload.batch)), strict=True)
            meter.batch(stack(payloads), np.stack(labels))
        else:
            meter.element(*get())
    return meter.result()


def send_back(get: Callable[[], Any], put: Callable[[Any], object], workload: Workload) -> None:
    """Put each element into the second queue that comes out of the first."""
    for _ in range(workload.total):
        put(get())


def put_and_get(put: Callable[[Any], object], get: Callable[[], Any], workload: Workload) -> Measurement:
    """Put each element, and wait until it has come back."""
    elements, meter = Elements(workload), Meter(workload)
    for number in range(workload.total):
        put(elements[number])
        meter.element(*get())
    return meter.result()
