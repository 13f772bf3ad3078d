"""The smallest program: one task puts numbers into a queue, another takes them out in batches.

    python examples/hello_queue.py

The session is embedded: the queue lives in this process, without a server. Give `flow.Session` the address of a
server, and the queue a `shared_name`, and the two tasks may be two programs: that is `examples/digits`.
"""

from __future__ import annotations

import asyncio

import aioflow as flow

squares = flow.FIFOQueue(capacity=4, dtypes=["int64"], shapes=[[]])


async def produce() -> None:
    """Put ten squares, waiting whenever the queue is full; it closes when its last producer has left."""
    async with squares.producer():
        for n in range(10):
            await squares.enqueue(n * n)


async def main() -> None:
    """Print the squares, four at a time; the loop ends when the queue is closed and empty."""
    async with flow.Session(), asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        async for batch in squares.batches(4):
            print(batch)


if __name__ == "__main__":
    asyncio.run(main())
