"""Gives the variables their first values, and fills the shared queue on the ps job.

    python loader.py        # with AIOFLOW_TARGET: the address of any server of the cluster

`run.py` starts it.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pipeline

import aioflow as flow


async def main() -> None:
    """Put every sample once an epoch; the queue closes when this producer leaves."""
    images, labels = pipeline.digits("train")
    rng = np.random.default_rng(pipeline.SEED)
    async with flow.Session() as session, pipeline.samples.producer("loader"):
        await session.run(pipeline.initializer())  # before the first sample, for which every trainer waits
        for _ in range(pipeline.EPOCHS):
            order = rng.permutation(len(labels))
            for rows in np.array_split(order, 24):
                await pipeline.samples.enqueue_many((images[rows], labels[rows]))
    print(f"put {pipeline.EPOCHS * len(labels)} samples")


if __name__ == "__main__":
    asyncio.run(main())
