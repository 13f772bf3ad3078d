"""A queue for each epoch: loaders fill the next one while the trainer still drains this one.

    python examples/epochs.py

A closed queue stays closed, and that is how a trainer sees the end of an epoch. So each epoch has a queue of its own:
`numbers.epoch(k)` is the same definition under a name of its own. The capacity, not a barrier, keeps loaders from
running ahead: when their part of an epoch is in they go on to the next, up to where its queue is full.

Each line that this prints shows a batch of one epoch, and how much of the next one is there already.
"""

from __future__ import annotations

import asyncio

import aioflow as flow

EPOCHS = 3
LOADERS = 2
PER_LOADER = 8
TRAIN_S = 0.01  # what a batch takes the trainer; loaders use the time

numbers = flow.FIFOQueue(capacity=6, dtypes=["int64"], shapes=[[]], shared_name="numbers", producers=LOADERS)


async def load(index: int) -> None:
    """Put this loader's share of each epoch; an epoch's queue closes when all its producers have left."""
    for k in range(EPOCHS):
        queue = numbers.epoch(k)
        async with queue.producer(f"loader-{index}"):
            for n in range(PER_LOADER):
                await queue.enqueue(100 * k + 10 * index + n)


async def train() -> None:
    """Drain one epoch after the other; the inner loop ends with the epoch."""
    for k in range(EPOCHS):
        count = 0
        async for batch in numbers.epoch(k).batches(4):
            count += len(batch)
            await asyncio.sleep(TRAIN_S)
            ahead = await numbers.epoch(k + 1).size() if k + 1 < EPOCHS else 0
            print(f"epoch {k}: {batch}, {ahead} of the next epoch are in")
        print(f"epoch {k} is over: {count} elements")


async def main() -> None:
    """Run the loaders and the trainer side by side."""
    async with flow.Session(), asyncio.TaskGroup() as tasks:
        for index in range(LOADERS):
            tasks.create_task(load(index))
        tasks.create_task(train())


if __name__ == "__main__":
    asyncio.run(main())
