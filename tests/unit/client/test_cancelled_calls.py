"""Calls that are cancelled after k turns of the event loop, for every k: nothing is lost and nothing doubled."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.runtime._turns import on_asyncio
from aioflow.testing._queue_stage import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

pytestmark = pytest.mark.anyio

TEST_S = 15.0
# More turns than any of these calls takes, in this process and through a server in it.
TURNS = 40


@asynccontextmanager
async def session(place: str) -> AsyncGenerator[None]:
    """Open a session of a kind."""
    if place == "embedded":
        async with flow.Session():
            yield
    else:
        async with flow.Server({"local": ["inproc://cancels"]}) as server, flow.Session(server):
            yield


async def enqueue(q: flow.FIFOQueue, put: list[int], _: list[int]) -> None:
    """Put one element."""
    await q.enqueue(100)
    put.append(100)


async def enqueue_many(q: flow.FIFOQueue, put: list[int], _: list[int]) -> None:
    """Put more than there is room for."""
    try:
        await q.enqueue_many([100, 101, 102])
    except BaseException as error:
        notes = " ".join(getattr(error, "__notes__", []))
        rows = next((n for n in (1, 2, 3) if f"{n} rows" in notes), 0)
        put.extend(range(100, 100 + rows))
        raise
    put.extend([100, 101, 102])


async def dequeue(q: flow.FIFOQueue, _: list[int], got: list[int]) -> None:
    """Take one element."""
    got.append(int(await q.dequeue()))


async def dequeue_many(q: flow.FIFOQueue, _: list[int], got: list[int]) -> None:
    """Take more than there are."""
    got.extend((await q.dequeue_many(3)).tolist())


async def batches(q: flow.FIFOQueue, _: list[int], got: list[int]) -> None:
    """Take steps, with more asked for ahead."""
    async with q.batches(1) as steps:
        for _number in range(2):
            got.extend((await anext(steps)).tolist())


async def batches_to_device(q: flow.FIFOQueue, _: list[int], got: list[int]) -> None:
    """Take steps, with the next batch copied ahead."""
    async with q.batches(1, device="/gpu:0") as steps:
        for _number in range(2):
            got.extend((await anext(steps)).tolist())


async def feed(q: flow.FIFOQueue, put: list[int], got: list[int], *, fills: bool) -> None:
    """Let the operation go on: make room, or put what it waits for."""
    if fills:
        got.append(int(await q.dequeue()))
    else:
        await q.enqueue(200)
        put.append(200)


OPERATIONS = [
    pytest.param(operation, fills, held, id=f"{operation.__name__}-{len(held)}")
    for operation, fills, helds in [
        (enqueue, True, ([], [1, 2, 3])),
        (enqueue_many, True, ([1], [1, 2, 3])),
        (dequeue, False, ([], [1])),
        (dequeue_many, False, ([1], [1, 2])),
        (batches, False, ([1], [1, 2, 3])),
        (batches_to_device, False, ([1], [1, 2, 3])),
    ]
    for held in helds
]


async def conserves(operation: Any, held: list[int], cancel: Any, turns: int, feed_turns: int, fills: bool) -> None:
    """Run an operation that is cancelled after some turns, and count."""
    put: list[int] = list(held)
    got: list[int] = []
    q = flow.FIFOQueue(3, "int64", ())
    if held:
        await q.enqueue_many(held)

    async def run() -> None:
        await operation(q, put, got)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed_after, q, put, got, feed_turns, fills)
        await cancel(run, turns)
        tasks.cancel_scope.cancel()
    await until(q, puts_waiting=0, gets_waiting=0, unacknowledged=0, ahead=0)
    left: list[int] = []
    while await q.size():
        left.append(int(await q.dequeue()))
    assert sorted(got + left) == sorted(put), f"after {turns} turns"
    assert left == sorted(left, key=put.index), f"the order of what is left, after {turns} turns"


async def feed_after(q: flow.FIFOQueue, put: list[int], got: list[int], turns: int, fills: bool) -> None:
    """Let the operation go on about when it is cancelled."""
    for _ in range(turns):
        await checkpoint()
    with anyio.CancelScope(shield=True), anyio.move_on_after(0.001):
        await feed(q, put, got, fills=fills)


async def by_scope(run: Callable[[], Any], turns: int) -> None:
    """Cancel by a scope of anyio (or trio)."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            for _ in range(turns):
                await checkpoint()
            scope.cancel()


async def by_task(run: Callable[[], Any], turns: int) -> None:
    """Cancel the task, as asyncio does."""
    task = asyncio.ensure_future(run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def by_timeout(run: Callable[[], Any], turns: int) -> None:
    """Cancel by `asyncio.timeout`, after so many turns."""
    loop = asyncio.get_running_loop()
    is_over = False

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        elif not is_over:
            timeout.reschedule(loop.time() - 1)

    with suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            turn(turns)
            try:
                await run()
            finally:
                is_over = True
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def by_group(run: Callable[[], Any], turns: int) -> None:
    """Cancel by the failure of a sibling in an asyncio.TaskGroup."""

    async def fail() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ZeroDivisionError

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run())
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.ensure_future(both())  # Python 3.11 leaves the count of cancellations of this task changed
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("place", ["embedded", "inproc"])
@pytest.mark.parametrize(("operation", "fills", "held"), OPERATIONS)
async def test_a_cancel_at_every_turn_conserves(place: str, operation: Any, fills: bool, held: list[int]) -> None:
    """Accepted equals taken plus left, in order, whichever turn the cancellation comes in and however it is made."""
    ways = [by_scope, *([by_task, by_timeout, by_group] if on_asyncio() else [])]
    with anyio.fail_after(TEST_S):
        async with session(place):
            for cancel in ways:
                for turns in range(TURNS):
                    for feed_turns in {turns // 2, max(0, turns - 3)}:
                        await conserves(operation, held, cancel, turns, feed_turns, fills)
