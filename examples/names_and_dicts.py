"""Components with names: elements go in as dicts, and come out as dicts.

    python examples/names_and_dicts.py

With two components a tuple is fine; with five nobody remembers which was the third. `names` gives each component a
name, in the order of `dtypes` and `shapes`. The names belong to the queue object, not to the queue: another program may
use other names, or none, for the same components.
"""

from __future__ import annotations

import asyncio

import numpy as np

import aioflow as flow

steps = flow.FIFOQueue(
    capacity=8,
    dtypes=["float32", "int64", "float32"],
    shapes=[[2], [], []],
    names=["observation", "action", "reward"],
    shared_name="steps",
)
unnamed = flow.FIFOQueue(8, ["float32", "int64", "float32"], [[2], [], []], shared_name="steps")


async def main() -> None:
    """Put one element, a batch, and a wrong one; take them in three ways."""
    async with flow.Session():
        await steps.enqueue({"observation": [0.0, 0.5], "action": 1, "reward": 0.25})

        # Columns, not rows: each component with a leading dimension, as a batch has one.
        observations = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
        await steps.enqueue_many({"observation": observations, "action": [2, 3, 4], "reward": [0.5, 0.75, 1]})

        try:
            await steps.enqueue({"observation": [0, 0], "acton": 1, "reward": 0})
        except flow.SpecMismatch as error:  # at the call, before anything is queued
            print("refused:", error)

        one = await steps.dequeue()
        print("one:", {name: value.tolist() for name, value in one.items()})
        batch = await steps.dequeue_many(2)
        print("batch:", {name: f"{value.dtype} {value.shape}" for name, value in batch.items()})
        print("mean reward:", batch["reward"].mean())

        observation, action, reward = await unnamed.dequeue()
        print("without names:", observation, action, reward)


if __name__ == "__main__":
    asyncio.run(main())
