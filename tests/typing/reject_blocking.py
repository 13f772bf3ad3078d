"""Mistakes with blocking sessions that a type checker must find; nothing here is run."""

from __future__ import annotations

import aioflow as flow
from aioflow import blocking

queue = flow.FIFOQueue(8, ["int64"], [[]])

blocking.Session(8)  # refused
blocking.Session("ipc:///tmp/flow.sock", flow.SessionConfig())  # refused

with blocking.Session() as session:
    session.enqueue(1)  # refused
    session.enqueue("queue", 1)  # refused
    session.enqueue(queue, 1, 0.5)  # refused
    session.enqueue(queue, 1, timeout="1")  # refused
    session.dequeue_many(queue, 2.0)  # refused
    text: str = session.size(queue)  # refused
    session.batches(queue, 8, False)  # refused
    session.lease(queue, 8)  # refused
    print(text)


async def use() -> None:
    """It is not for coroutines."""
    async with session:  # refused
        await session.size(queue)  # refused
