"""What a cancelled put tells its caller (semantics 0.3)."""

from __future__ import annotations

import asyncio
import math

import anyio
import pytest

import aioflow as flow
from aioflow.runtime._turns import turns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: these are about its tasks."""
    return "asyncio"


async def _waiting_put(queue: flow.FIFOQueue, rows: list[int]) -> asyncio.Task[None]:
    put = asyncio.create_task(queue.enqueue_many(rows))
    while not (await queue.stats()).puts_waiting:
        await asyncio.sleep(0)
    return put


async def test_the_number_of_rows_that_are_in_is_noted() -> None:
    """semantics 0.3: rows of a cancelled enqueue_many that are in stay in, and a note gives their number."""
    queue = flow.FIFOQueue(2, ["int32"], [[]])
    async with flow.Session():
        put = await _waiting_put(queue, [1, 2, 3])
        put.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await put
        assert "2 rows are in the queue" in caught.value.__notes__[0]
        assert await queue.size() == 2


async def test_the_number_is_noted_when_the_queue_is_closed_in_the_same_moment() -> None:
    """semantics 0.3: the note is there too when close(True) ended the put before its cancellation was seen."""
    queue = flow.FIFOQueue(2, ["int32"], [[]])
    async with flow.Session():
        put = await _waiting_put(queue, [1, 2, 3])
        put.cancel()
        await queue.close(cancel_pending_enqueues=True)
        with pytest.raises(asyncio.CancelledError) as caught:
            await put
        assert "2 of 3 rows are in the queue" in caught.value.__notes__[0]


async def test_a_put_that_swallowed_its_cancellation_ends_the_next_call() -> None:
    """semantics 0.3: an accepted put returns normally; the task's next aioflow call raises the cancellation."""
    queue = flow.FIFOQueue(1, ["int32"], [[]])
    reached: list[str] = []

    async def put_twice() -> None:
        await queue.enqueue(2)
        reached.append("accepted")
        await queue.size()
        reached.append("went on")

    async with flow.Session():
        await queue.enqueue(1)
        task = asyncio.create_task(put_twice())
        while not (await queue.stats()).puts_waiting:
            await asyncio.sleep(0)
        turns.next = math.inf  # no turn for the task between the two, however busy the machine
        assert await queue.dequeue() == 1  # accepts the put ...
        task.cancel()  # ... in the same moment
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reached == ["accepted"]
        assert await queue.dequeue() == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_loop_of_puts_ends_with_its_scope(anyio_backend: str) -> None:
    """semantics 0.3: a put that only swallowed its cancel would run on for ever."""
    queue = flow.FIFOQueue(-1, ["int32"], [[]])
    async with flow.Session():
        accepted = 0
        with anyio.CancelScope() as scope:
            while accepted < 10_000:
                if accepted == 100:
                    scope.cancel()
                await queue.enqueue(accepted)
                accepted += 1
        assert scope.cancelled_caught
        assert await queue.size() == accepted
