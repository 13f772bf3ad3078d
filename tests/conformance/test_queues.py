"""A queue behaves the same in every kind of session, on every event loop."""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow.testing._queue_stage import OpenSession, Started, start
from aioflow.testing._queue_suite import QUEUE_CHECKS, SHARED_QUEUE_CHECKS, run_queue_check

pytestmark = pytest.mark.anyio

_numbers = count()

ASYNCIO: tuple[str, dict[str, Any]] = ("asyncio", {})
UVLOOP: tuple[str, dict[str, Any]] = ("asyncio", {"use_uvloop": True})
TRIO: tuple[str, dict[str, Any]] = ("trio", {})

PLACES = [
    pytest.param(loop, place, id=f"{name}-{place}")
    for name, loop, places in [
        ("asyncio", ASYNCIO, ("embedded", "inproc", "ipc", "shm", "tcp")),
        ("uvloop", UVLOOP, ("embedded", "ipc")),
        ("trio", TRIO, ("embedded", "ipc")),
    ]
    for place in places
]


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield name


@asynccontextmanager
async def sessions(place: str, folder: str) -> AsyncGenerator[OpenSession]:
    """Give a function that opens sessions of a kind: embedded, or on a server at such an address."""
    if place == "embedded":
        yield flow.Session
        return
    number = next(_numbers)
    addresses = {
        "inproc": f"inproc://queues-{number}",
        "ipc": f"ipc://{folder}/{number}",
        "shm": f"shm://{folder}/{number}",
        "tcp": "tcp://127.0.0.1:0",
    }
    async with flow.Server({"local": [addresses[place]]}) as server:

        def open_session() -> AbstractAsyncContextManager[flow.Session]:
            return flow.Session(server.address)

        yield open_session


@pytest.mark.parametrize("check", QUEUE_CHECKS)
@pytest.mark.parametrize(("anyio_backend", "place"), PLACES)
async def test_queue(place: str, folder: str, check: str) -> None:
    """One check of the conformance suite holds."""
    async with sessions(place, folder) as open_session:
        await run_queue_check(check, open_session)


@pytest.mark.parametrize("check", SHARED_QUEUE_CHECKS)
@pytest.mark.parametrize(("anyio_backend", "place"), [param for param in PLACES if param.values[1] != "embedded"])
async def test_shared_queue(place: str, folder: str, check: str) -> None:
    """One check for sessions that share queues holds."""
    async with sessions(place, folder) as open_session:
        await run_queue_check(check, open_session)


# Generated sequences: what an embedded queue does, one behind a socket does too.

Trace = list[tuple[object, ...]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["FIFOQueue", "RandomShuffleQueue", "PaddingFIFOQueue", "PriorityQueue"])
async def test_a_random_sequence_has_one_trace(folder: str, kind: str, seed: int) -> None:
    """The same operations, cancels among them, give the same results, errors and sizes embedded and through ipc."""
    with anyio.fail_after(10):
        traces = []
        for place in ("embedded", "ipc"):
            async with sessions(place, folder) as open_session, open_session():
                traces.append(await _trace(kind, random.Random(f"{kind}{seed}")))
    assert traces[0] == traces[1]


def _define(kind: str, chance: random.Random) -> flow.Queue:
    capacity = chance.choice((1, 3, 8))
    if kind == "RandomShuffleQueue":
        return flow.RandomShuffleQueue(capacity, chance.randrange(capacity), "int64", (), seed=1, capacity_bytes=1000)
    if kind == "PriorityQueue":
        return flow.PriorityQueue(capacity, "int64", ())
    if kind == "PaddingFIFOQueue":
        return flow.PaddingFIFOQueue(capacity, ["int64", "str"], [[None], []], capacity_bytes=chance.choice((40, 1000)))
    return flow.FIFOQueue(capacity, "int64", ())


def _rows(kind: str, chance: random.Random, count: int) -> Any:
    numbers = [chance.randrange(100) for _ in range(count)]
    if kind == "PriorityQueue":
        return [number % 5 for number in numbers], numbers
    if kind == "PaddingFIFOQueue":
        return np.arange(3 * count).reshape(count, 3)[:, : chance.randrange(4)], [str(number) for number in numbers]
    return numbers


async def _trace(kind: str, chance: random.Random) -> Trace:
    """Run random operations one after the other, each until it has ended or waits."""
    q = _define(kind, chance)
    trace: Trace = []
    waiting: dict[int, Started] = {}
    async with anyio.create_task_group() as tasks:
        for number in range(40):
            what = chance.choice(("put", "put", "get", "get", "up_to", "one", "cancel", "close", "bad"))
            if what == "cancel":
                if waiting:
                    key = chance.choice(sorted(waiting))
                    operation = waiting.pop(key)
                    trace.append(("cancel", key, await operation.cancel(), tuple(operation.notes)))
            else:
                n, rows = chance.randrange(5), _rows(kind, chance, chance.randrange(5))
                calls: dict[str, tuple[Any, ...]] = {
                    "put": (q.enqueue_many, rows),
                    "get": (q.dequeue_many, n),
                    "up_to": (q.dequeue_up_to, n + 1),
                    "one": (q.dequeue,),
                    "close": (q.close, n == 0) if number > 25 else (q.size,),
                    "bad": (q.enqueue, "wrong"),
                }
                waiting[number] = start(tasks, *calls[what])
            await _settle(q, waiting)
            for key in [key for key, operation in waiting.items() if operation.is_done]:
                trace.append((key, await _outcome(waiting.pop(key))))
            stats = await q.stats()
            trace.append((stats.size, stats.size_bytes, stats.is_closed, stats.puts_waiting, stats.gets_waiting))
        for operation in reversed(list(waiting.values())):
            await operation.cancel()
    return trace


async def _settle(q: flow.Queue, waiting: dict[int, Started]) -> None:
    """Wait until each operation has ended, or waits in the queue: as many as are not done."""

    def count() -> int:
        return sum(not operation.is_done for operation in waiting.values())

    stats = await q.stats()
    for _ in range(1000):
        await anyio.lowlevel.checkpoint()
        before = count()
        stats = await q.stats()
        if before == count() == stats.puts_waiting + stats.gets_waiting:
            return
    raise AssertionError(f"{count()} operations are under way, and the queue says {stats}")


async def _outcome(operation: Started) -> object:
    try:
        result = await operation.outcome()
    except flow.AioflowError as error:
        # A private queue's name differs from session to session.
        return type(error).__name__, re.sub(r"'private [^']*'", "", str(error)), tuple(operation.notes)
    parts = result if isinstance(result, tuple) else (result,)
    return [part.tolist() if isinstance(part, np.ndarray | np.generic) else part for part in parts]
