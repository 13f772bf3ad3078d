"""aioflow: a queue on a server of its own, over ipc, and so through shared memory.

Everything goes through a `writer`, which groups elements and chunks while others are on their way, as the thread of a
multiprocessing.Queue does: a quarter of the capacity where elements are small, three of the consumer's batches where
they are images, and five large tensors. The consumer asks for more batches ahead than by default. Single elements that
go there and back are put by `enqueue`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioflow as flow
from benchmarks.elements import Elements
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from collections.abc import Generator

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

GROUP = 256  # small elements in a group
GROUP_BATCHES = 3  # of images
GROUP_CHUNKS_ROWS = 8192  # rows of chunks, which grow where others are under way
GROUP_BYTES = 20 << 20  # of large tensors
PREFETCH, PREFETCH_LARGE = 4, 6
LARGE_BYTES = 1 << 16
FILL_S = 0.1  # a group of images takes some milliseconds to fill, and should be a whole batch


def consume(workload: Workload, scheme: str = "ipc", *, shared: bool = True) -> Measurement:
    """Take what producers put into a queue of a server; see `benchmarks.systems`."""
    with serving(scheme, shared=shared) as address, producing(_produce, workload, address):
        return asyncio.run((_put_and_take if workload.there_and_back else _consume)(workload, address))


@contextmanager
def serving(scheme: str, *, shared: bool = True) -> Generator[str]:
    """Run a server in a process of its own for the length of a block, which is given its address.

    Where memory is not to be shared, clients find nothing beside the address, as in a container that has only that.
    """
    with tempfile.TemporaryDirectory() as folder:
        bind = "tcp://127.0.0.1:0" if scheme == "tcp" else f"{scheme}://{folder}/s"
        command = [sys.executable, "-m", "aioflow", "serve", "--bind", bind]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            serves_at = server.stdout.readline().split()[-1]
            if not shared:
                Path(f"{folder}/s.shm").unlink()
            yield serves_at
        finally:
            server.terminate()
            server.wait()


def _queue(workload: Workload, name: str = "there") -> flow.FIFOQueue | flow.RandomShuffleQueue | flow.PaddingFIFOQueue:
    dtypes = [workload.dtype, "int64"]
    shapes: Any = [[None] if workload.is_padded else list(workload.shape), []]
    if workload.queue == "RandomShuffleQueue":
        return flow.RandomShuffleQueue(
            workload.capacity,
            workload.capacity // 2,
            dtypes,
            shapes,
            seed=0,
            shared_name=name,
            producers=workload.producers,
        )
    kind = flow.PaddingFIFOQueue if workload.is_padded else flow.FIFOQueue
    return kind(workload.capacity, dtypes, shapes, shared_name=name, producers=workload.producers)


async def _consume(workload: Workload, address: str) -> Measurement:
    meter, queue = Meter(workload), _queue(workload)
    async with flow.Session(address):
        if workload.batch:
            prefetch = PREFETCH_LARGE if workload.element_bytes >= LARGE_BYTES else PREFETCH
            async for payload, labels in queue.batches(workload.batch, prefetch=prefetch, copy=workload.copy):
                meter.batch(payload, labels)
        else:
            async for payload, label in queue:
                meter.element(payload, label)
    return meter.result()


async def _put_and_take(workload: Workload, address: str) -> Measurement:
    elements, meter = Elements(workload), Meter(workload)
    there, back = _queue(workload), _queue(workload, "back")
    async with flow.Session(address), there.producer():
        returned = aiter(back)
        for number in range(workload.total):
            await there.enqueue(elements[number])
            meter.element(*await anext(returned))
    return meter.result()


def _produce(workload: Workload, producer: int, address: str) -> None:
    if workload.there_and_back:
        asyncio.run(_send_back(workload, address))
    else:
        asyncio.run(_put_chunks(workload, address) if workload.chunk else _write(workload, producer, address))


async def _send_back(workload: Workload, address: str) -> None:
    there, back = _queue(workload), _queue(workload, "back")
    async with flow.Session(address), back.producer():
        async for element in there:
            await back.enqueue(element)


async def _write(workload: Workload, producer: int, address: str) -> None:
    elements, queue = Elements(workload), _queue(workload)
    is_large = workload.element_bytes >= LARGE_BYTES
    batch = GROUP_BATCHES * workload.batch if is_large and workload.batch else GROUP
    group_bytes = max(1 << 20, batch * workload.element_bytes) if workload.batch else GROUP_BYTES
    writer = queue.writer(batch=batch, batch_bytes=group_bytes, delay_s=FILL_S)
    async with flow.Session(address), queue.producer(), writer:
        for number in workload.numbers(producer):
            await writer.write(elements[number])


async def _put_chunks(workload: Workload, address: str) -> None:
    elements, queue = Elements(workload), _queue(workload)
    async with flow.Session(address), queue.producer(), queue.writer(batch=GROUP_CHUNKS_ROWS) as writer:
        for number in range(workload.total // workload.chunk):
            await writer.write_many(elements.chunk(number))
