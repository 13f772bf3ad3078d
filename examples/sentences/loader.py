"""Puts its share of the sentences into the queue, epoch after epoch, in an order that is new each time.

    python loader.py INDEX        # from 0 to SENTENCES_LOADERS - 1

`run.py` starts it. By hand, set AIOFLOW_TARGET to the address of a server first.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pipeline

import aioflow as flow


async def main(index: int) -> None:
    """Be a producer until all epochs are in; the queue's capacity keeps the loader from running far ahead."""
    sentences = pipeline.sentences("train")
    share = range(index, len(sentences), pipeline.LOADERS)  # the shares are disjoint and make up the whole
    rng = np.random.default_rng([pipeline.SEED, index])
    # When the last producer leaves, the queue closes, and the trainer finds the end behind the last sentence.
    async with flow.Session(), pipeline.train.producer(f"loader-{index}"):
        print(f"loader-{index} has {len(share)} sentences for each of {pipeline.EPOCHS} epochs", flush=True)
        for epoch in range(pipeline.EPOCHS):
            for number in rng.permutation(share):
                await pipeline.train.enqueue((sentences[number], epoch, number))


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"loader.py: {type(error).__name__}: {error}")
