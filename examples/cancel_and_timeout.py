"""Timeouts and cancels: any call may be cut short at any moment, and nothing is lost or doubled.

    python examples/cancel_and_timeout.py

No call takes a timeout. Put `anyio.fail_after` (or `asyncio.timeout`) around it, which cancels it in time. A get that
is cancelled puts back what it had collected so far, in its place. A put that is cancelled was not accepted, so it may
be tried again; or it had been accepted already, and then it returns as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

import aioflow as flow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COUNT = 1000
TIMEOUT_S_MAX = 0.002
PAUSE_S = 0.005  # longer than any timeout: who waits for a side that pauses is cut short

rng = np.random.default_rng(0)
cut_short: Counter[str] = Counter()

few = flow.FIFOQueue(capacity=4, dtypes=["int64"], shapes=[[]])
many = flow.FIFOQueue(capacity=4, dtypes=["int64"], shapes=[[]])


async def show_timeouts() -> None:
    """Let a get wait for more than comes, and a put for room that nobody makes."""
    await few.enqueue_many([1, 2])
    try:
        with anyio.fail_after(0.01):
            await few.dequeue_many(3)
    except TimeoutError:
        print(f"no 3 elements in time; the 2 that were there still are: size {await few.size()}")

    try:
        async with asyncio.timeout(0.01):  # the same in asyncio's own words
            await few.enqueue_many([3, 4, 5, 6])
    except TimeoutError as error:
        # The elements of a batch are accepted one by one; a note on the cancellation says how many were.
        print(f"no room for 4 more in time: size {await few.size()};", *getattr(error.__cause__, "__notes__", []))
    print(f"in order, each once: {await few.dequeue_many(4)}")


async def try_until_done(call: Callable[[Any], Awaitable[Any]], argument: Any) -> Any:
    """Call with a timeout of up to 2 ms, again and again until it is done; return its result."""
    while True:
        with anyio.move_on_after(rng.uniform(0, TIMEOUT_S_MAX)):
            return await call(argument)
        cut_short[call.__name__] += 1


async def put() -> None:
    """Put the numbers from 0 to COUNT - 1, with a pause now and then."""
    for n in range(COUNT):
        await try_until_done(many.enqueue, n)
        if n % 70 == 0:
            await asyncio.sleep(PAUSE_S)
    await many.close()


async def take() -> list[int]:
    """Take all numbers, up to three at a time, with a pause now and then."""
    taken: list[int] = []
    try:
        while True:
            taken.extend((await try_until_done(many.dequeue_up_to, 3)).tolist())
            if len(taken) % 50 == 0:
                await asyncio.sleep(PAUSE_S)
    except flow.EndOfQueue:
        return taken


async def main() -> None:
    """Show two timeouts, then a thousand numbers through a storm of them."""
    async with flow.Session():
        await show_timeouts()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(put())
            taking = tasks.create_task(take())
    taken = taking.result()
    print("cut short:", ", ".join(f"{name} {count} times" for name, count in sorted(cut_short.items())))
    print(
        f"lost: {COUNT - len(set(taken))}, doubled: {len(taken) - len(set(taken))}, in order: {taken == sorted(taken)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
