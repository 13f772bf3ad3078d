"""Trains a model on the batches it takes from the queue of each epoch, and tests it.

    python trainer.py [INDEX]        # from 0 to DIGITS_TRAINERS - 1; 0 if left out

`run.py` starts it. By hand, set AIOFLOW_TARGET to the address of a server first. Several trainers share the samples of
an epoch; each has a model of its own, trained on what it got. The exit code is 1 if the model is worse than 93 %, or if
a sample was missing or came twice.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pipeline
from model import Model

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACCURACY_MIN = 0.93


async def train_epoch(model: Model, queue: flow.RandomShuffleQueue, arrived: NDArray[np.int64]) -> str:
    """Train on every batch until the epoch's queue ends; count each sample in `arrived`; return a line about it."""
    losses: list[float] = []
    waited_s = 0.0
    began = ready = perf_counter()
    async for images, labels, numbers in queue.batches(pipeline.BATCH):
        waited_s += perf_counter() - ready
        losses.append(model.train(images, labels))
        np.add.at(arrived, numbers, 1)
        ready = perf_counter()
    ended = perf_counter()
    waited_s += ended - ready
    took_s, count = ended - began, arrived.sum()
    loss = np.mean(losses) if losses else np.nan
    return f"loss {loss:.3f}, {count} samples, {count / took_s:.0f} samples/s, waited {waited_s / took_s:.0%}"


def check(arrived: NDArray[np.int64]) -> None:
    """Say how the samples arrived, from their counts by epoch and sample; leave the counts for run.py to add up.

    Raises:
        SystemExit: A sample came twice, or, where this is the only trainer, did not come.
    """
    if folder := os.environ.get("DIGITS_COUNTS"):
        np.save(Path(folder) / f"{os.getpid()}.npy", arrived)
    twice, missing = (arrived > 1).sum(), (arrived < 1).sum()
    if twice or (missing and pipeline.TRAINERS == 1):
        sys.exit(f"samples that came twice: {twice}, not at all: {missing}")
    if pipeline.TRAINERS == 1:
        print("every sample arrived exactly once in every epoch")
    else:
        print(f"no sample arrived twice in an epoch; this trainer's share: {arrived.mean():.0%}")


async def main(index: int) -> None:
    """Train for all epochs, print a line after each, and check the result."""
    test = pipeline.samples("test")
    model = Model(seed=index)
    arrived = np.zeros((pipeline.EPOCHS, pipeline.TRAIN_SIZE), np.int64)
    async with flow.Session():
        await pipeline.all_trainers()
        for epoch in range(pipeline.EPOCHS):
            line = await train_epoch(model, pipeline.train.epoch(epoch), arrived[epoch])
            print(f"epoch {epoch + 1:2}: test accuracy {model.accuracy(*test):.1%}, {line}")
    check(arrived)
    accuracy = model.accuracy(*test)
    print(f"test accuracy: {accuracy * 100:.1f} %")
    if accuracy < ACCURACY_MIN:
        sys.exit(f"expected at least {ACCURACY_MIN:.0%}")


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
