"""aioflow: a FIFOQueue on a server of its own, over ipc.

Everything goes through a `writer`, which groups elements and chunks while others are on their way, as the thread of a
multiprocessing.Queue does. Groups of images are the size of the consumer's batches. Where elements are small, the
consumer asks for more batches ahead than by default.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aioflow as flow
from benchmarks.elements import Elements
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

GROUP = 512  # rows of small chunks in a group
PREFETCH = 8
FILL_S = 0.1  # a group of images takes some milliseconds to fill, and should be a whole batch


def consume(workload: Workload, scheme: str = "ipc") -> Measurement:
    """Take what a producer puts into a queue of a server; see `benchmarks.systems`."""
    with _server(scheme) as address, producing(_produce, address, workload):
        return asyncio.run(_consume(address, workload))


@contextmanager
def _server(scheme: str) -> Generator[str]:
    with tempfile.TemporaryDirectory() as folder:
        address = f"{scheme}://{folder}/s"
        server = subprocess.Popen([sys.executable, "-m", "aioflow", "serve", "--bind", address], stdout=sys.stderr)
        try:
            yield address  # clients wait for a server that is still starting
        finally:
            server.terminate()
            server.wait()


def _queue(workload: Workload) -> flow.FIFOQueue:
    return flow.FIFOQueue(
        workload.capacity, [workload.dtype, "int64"], [list(workload.shape), []], shared_name=workload.name
    )


async def _consume(address: str, workload: Workload) -> Measurement:
    meter, queue = Meter(workload), _queue(workload)
    async with flow.Session(address):
        if workload.batch:
            async for payload, labels in queue.batches(workload.batch, prefetch=PREFETCH if workload.chunk else 2):
                meter.batch(payload, labels)
        else:
            async for payload, label in queue:
                meter.element(payload, label)
    return meter.result()


def _produce(address: str, workload: Workload) -> None:
    asyncio.run(_put_chunks(address, workload) if workload.chunk else _write(address, workload))


async def _write(address: str, workload: Workload) -> None:
    elements, queue = Elements(workload), _queue(workload)
    group_bytes = workload.batch * workload.element_bytes or 1 << 20
    async with flow.Session(address), queue.producer(), queue.writer(batch_bytes=group_bytes, delay_s=FILL_S) as writer:
        for number in range(workload.total):
            await writer.write(elements[number])


async def _put_chunks(address: str, workload: Workload) -> None:
    elements, queue = Elements(workload), _queue(workload)
    async with flow.Session(address), queue.producer(), queue.writer(batch=GROUP) as writer:
        for number in range(workload.total // workload.chunk):
            await writer.write_many(elements.chunk(number))
