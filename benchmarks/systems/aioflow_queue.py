"""aioflow: a FIFOQueue on a server of its own, over ipc.

Single elements go through a `writer`, which groups them. Chunks are put with `enqueue_many`, by a few tasks at the same
time, so that the next chunks are on their way while one is accepted, as multiprocessing.Queue's thread has it.
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
    from collections.abc import Generator, Iterator

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

PUTS = 4  # chunks under way
GROUP_BYTES = 16 << 20  # a group of the writer holds 64 images


def consume(workload: Workload) -> Measurement:
    """Take what a producer puts into a queue of a server; see `benchmarks.systems`."""
    with _server() as address, producing(_produce, address, workload):
        return asyncio.run(_consume(address, workload))


@contextmanager
def _server() -> Generator[str]:
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/s"
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
            async for payload, labels in queue.batches(workload.batch):
                meter.batch(payload, labels)
        else:
            async for payload, label in queue:
                meter.element(payload, label)
    return meter.result()


def _produce(address: str, workload: Workload) -> None:
    asyncio.run(_put_chunks(address, workload) if workload.chunk else _write(address, workload))


async def _write(address: str, workload: Workload) -> None:
    elements, queue = Elements(workload), _queue(workload)
    async with flow.Session(address), queue.producer(), queue.writer(batch_bytes=GROUP_BYTES) as writer:
        for number in range(workload.total):
            await writer.write(elements[number])


async def _put_chunks(address: str, workload: Workload) -> None:
    elements, queue = Elements(workload), _queue(workload)

    async def put(numbers: Iterator[int]) -> None:
        for number in numbers:
            await queue.enqueue_many(elements.chunk(number))

    async with flow.Session(address), queue.producer(), asyncio.TaskGroup() as tasks:
        numbers = iter(range(workload.total // workload.chunk))
        for _ in range(PUTS):
            tasks.create_task(put(numbers))
