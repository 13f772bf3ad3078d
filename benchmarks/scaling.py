"""Whether many producers, consumers or queues are slower than one, and elements of a full queue dearer than of another.

Every client is a process with a session of its own, at the `ipc://` address of one server; several calls are under way
in each. The time begins when all have attached, and ends when all is taken.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import aioflow as flow
from benchmarks.systems.aioflow_queue import serving

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

# Of these as many, and one of the rest.
ONE = ("producers", 1)
SEVERAL = [("producers", 4), ("producers", 16), ("consumers", 4), ("consumers", 16), ("queues", 30), ("queues", 1000)]
SEVERAL_SMALL = [("producers", 2), ("queues", 30)]
HELD = (10**3, 10**4, 10**5, 10**6, 10**7)

ROWS = 64  # in a put and in a get
FILLING_ROWS = 1000
CAPACITY_BYTES = 1 << 30  # what the most that are held come to, and more
CHUNKS, CHUNKS_SMALL = 4_000, 160  # in all, however many there are that put, take and hold them
PAIRS, PAIRS_SMALL = 1_000, 20
TURNS = 20  # of each queue in turn
CALLS = 8  # that a client has under way
STARTS_S = 60.0  # until all clients have attached, or taken everything

# Of what one reaches, what many reach at least together; and by how much more an element costs at most.
SHARE_MIN = 0.8
GROWTH_MAX = 1.2


def run(rounds: int, *, small: bool) -> tuple[dict[str, Any], list[tuple[str, float, str, bool]]]:
    """Measure; return the figures, and each demand with whether it is met."""
    chunks, pairs = (CHUNKS_SMALL, PAIRS_SMALL) if small else (CHUNKS, PAIRS)
    several = SEVERAL_SMALL if small else SEVERAL
    held = HELD[:2] if small else HELD
    figures: dict[str, Any] = {}
    rows: list[tuple[str, float, str, bool]] = []
    rates = [
        {(what, count): _elements_per_s(chunks, **{what: count}) for what, count in [ONE, *several]}
        for _ in range(rounds)
    ]
    for what, count in (ONE, *several):
        figures[f"{count} {what}, elements/s"] = median(of_one[what, count] for of_one in rates)
    for what, count in several:
        share = median(of_one[what, count] / of_one[ONE] for of_one in rates)
        rows.append((f"{count} {what}, x one", share, f"at least {SHARE_MIN:g}", share >= SHARE_MIN))
    for kind in ("FIFOQueue", "RandomShuffleQueue"):
        costs = asyncio.run(_costs_us(kind, held, pairs))
        figures[f"{kind}, µs/element by elements held"] = costs
        for count in held[1:]:
            growth = costs[count] / costs[held[0]]
            what = f"an element of a {kind} that holds {count:,}, x one that holds {held[0]:,}"
            rows.append((what, growth, f"at most {GROWTH_MAX:g}", growth <= GROWTH_MAX))
    return figures, rows


def _elements_per_s(chunks: int, producers: int = 1, consumers: int = 1, queues: int = 1) -> float:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(producers + consumers + 1)
    with serving("ipc") as address, ExitStack() as stack:
        for call, count in ((_put, producers), (_take, consumers)):
            for number in range(count):
                arguments = (call, address, range(number, chunks, count), queues, barrier)
                process = context.Process(target=_client, args=arguments)
                process.start()
                stack.callback(process.join)
                stack.callback(process.kill)
        barrier.wait(STARTS_S)
        began = time.perf_counter()
        barrier.wait(STARTS_S)
        return chunks * ROWS / (time.perf_counter() - began)


def _client(call: Any, address: str, numbers: range, queues: int, barrier: Barrier) -> None:
    asyncio.run(_run_client(call, address, numbers, queues, barrier))


async def _run_client(call: Any, address: str, numbers: range, queues: int, barrier: Barrier) -> None:
    """Put or take the chunks of these numbers, each in the queue whose turn it is."""
    definitions = [_queue("FIFOQueue", 1024, f"queue{number}") for number in range(queues)]
    async with flow.Session(address):
        for queue in definitions:
            await queue.size()
        await asyncio.to_thread(barrier.wait, STARTS_S)
        left = iter(numbers)

        async def work() -> None:
            for number in left:
                await call(definitions[number % queues])

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(work())
        await asyncio.to_thread(barrier.wait, STARTS_S)


def _queue(kind: str, capacity: int, name: str) -> flow.FIFOQueue | flow.RandomShuffleQueue:
    dtypes, shapes = ["float32", "int64"], [[16], []]
    if kind == "RandomShuffleQueue":
        return flow.RandomShuffleQueue(
            capacity, 0, dtypes, shapes, seed=0, shared_name=name, capacity_bytes=CAPACITY_BYTES
        )
    return flow.FIFOQueue(capacity, dtypes, shapes, shared_name=name, capacity_bytes=CAPACITY_BYTES)


def _columns(rows: int) -> tuple[Any, Any]:
    return np.zeros((rows, 16), np.float32), np.zeros(rows, np.int64)


async def _put(queue: flow.FIFOQueue) -> None:
    await queue.enqueue_many(_columns(ROWS))


async def _take(queue: flow.FIFOQueue) -> None:
    await queue.dequeue_many(ROWS)


async def _costs_us(kind: str, held: tuple[int, ...], pairs: int) -> dict[int, float]:
    """Return what an element costs that is put into a queue that holds so many, and another taken: the medians.

    The queues take turns, as what slows the machine for a while is to slow them all.
    """
    queues = {count: _queue(kind, count + ROWS, f"held{count}") for count in held}
    took: dict[int, list[float]] = {count: [] for count in held}
    async with flow.Session(""):  # in this process, so that nothing but the queue counts
        for count, queue in queues.items():
            for _ in range(count // FILLING_ROWS):
                await queue.enqueue_many(_columns(FILLING_ROWS))
        for _ in range(TURNS):
            for count, queue in queues.items():
                for _ in range(pairs // TURNS):
                    began = time.perf_counter()
                    await queue.enqueue_many(_columns(ROWS))
                    await queue.dequeue_many(ROWS)
                    took[count].append(time.perf_counter() - began)
    return {count: median(times) / ROWS * 1e6 for count, times in took.items()}
