"""Mistakes that a type checker must find; nothing here is run. Each is marked with `# refused`."""

from __future__ import annotations

import aioflow as flow

queue = flow.FIFOQueue(8, ["int64"], [[]])

flow.FIFOQueue("8", ["int64"])  # refused
flow.FIFOQueue(8)  # refused
flow.FIFOQueue(8, ["int64"], [[]], None, "name", 1000)  # refused
flow.RandomShuffleQueue(8, dtypes=["int64"])  # refused
flow.PaddingFIFOQueue(8, ["int64"])  # refused
flow.Session(8)  # refused
flow.SessionConfig(connect_s="10")  # refused
flow.lookup(None)  # refused
flow.device(0)  # refused


async def use() -> None:
    """Wrong arguments, wrong results, and a timeout that no call takes."""
    await queue.enqueue()  # refused
    await queue.enqueue(1, 2)  # refused
    await queue.enqueue(1, timeout=1)  # refused
    await queue.dequeue_many("2")  # refused
    await queue.dequeue_many(2.0)  # refused
    text: str = await queue.size()  # refused
    queue.size() + 1  # refused
    list(queue)  # refused
    with queue.producer():  # refused
        pass
    async with queue.writer(batch="64") as writer:  # refused
        writer.missing  # refused
    queue.batches()  # refused
    queue.batches(8, False)  # refused
    print(text)
