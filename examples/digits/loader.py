"""Puts its share of the training samples into the queue of each epoch, in an order that is new each time.

    python loader.py INDEX        # from 0 to DIGITS_LOADERS - 1

`run.py` starts it. By hand, set AIOFLOW_TARGET to the address of a server first.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pipeline

import aioflow as flow


async def main(index: int) -> None:
    """Fill one epoch after the other; the queue's capacity keeps the loader from running far ahead."""
    images, labels = pipeline.samples("train")
    async with flow.Session():
        for epoch in range(pipeline.EPOCHS):
            # Every loader shuffles alike and takes every n-th sample: the shares are disjoint and make up the whole.
            order = np.random.default_rng([pipeline.SEED, epoch]).permutation(pipeline.TRAIN_SIZE)
            share = order[index :: pipeline.LOADERS]
            queue = pipeline.train.epoch(epoch)
            # The writer sends its last samples when it is left, before the producer leaves; when all producers have
            # left, the queue closes, and the trainers find the end of the epoch behind the last sample.
            async with queue.producer(f"loader-{index}"), queue.writer(batch=64) as writer:
                for sample in share:
                    await writer.write((images[sample], labels[sample], sample))
    print(f"{pipeline.EPOCHS} epochs loaded")


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
