"""Fills the shared queue on the ps job, in an order that is new in each epoch, until the trainers close it.

    python loader.py        # with AIOFLOW_TARGET: the address of any server of the cluster

`run.py` starts it. It registers no producer: the trainers say when there was enough. When the queue is gone, because
its ps task was started anew, it fills the new one.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pipeline
from data import digits

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNKS = 24  # an epoch is put in so many calls


async def put_epoch(images: NDArray[np.float32], labels: NDArray[np.int64], order: NDArray[np.int64]) -> None:
    """Put every sample once, in an order; waits while the queue is full."""
    for rows in np.array_split(order, CHUNKS):
        await pipeline.samples.enqueue_many((images[rows], labels[rows]))


async def main() -> None:
    """Put epoch after epoch."""
    images, labels = digits("train")
    rng = np.random.default_rng(pipeline.SEED)
    async with flow.Session():
        for epoch in count():
            try:
                await put_epoch(images, labels, rng.permutation(len(labels)))
            except flow.QueueReset as reset:
                print(f"QueueReset: {reset}", flush=True)
            except flow.QueueClosed:
                print(f"the trainers have closed the queue in epoch {epoch + 1}")
                return


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
