"""Trains a language model on the batches it takes from the queue, and tests it on the sentences that were held out.

    python trainer.py

`run.py` starts it, and reads from the file that SENTENCES_RESULT names what came of it. By hand, set AIOFLOW_TARGET to
the address of a server first.
"""

from __future__ import annotations

import asyncio
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pipeline
from model import Model

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pad(sentences: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Make a batch of sentences by hand, as the queue does: filled up with zeros, [n, length of the longest]."""
    batch = np.zeros((len(sentences), max(map(len, sentences))), np.int32)
    for row, sentence in zip(batch, sentences, strict=True):
        row[: len(sentence)] = sentence
    return batch


async def main() -> None:
    """Train until the queue ends; test at first and after as many sentences as an epoch has."""
    held_out = pad(pipeline.sentences("held-out"))
    per_epoch = len(pipeline.sentences("train"))
    arrived = np.zeros((pipeline.EPOCHS, per_epoch), np.int64)
    model = Model(pipeline.SEED)
    losses = [model.loss(held_out)]
    print(f"    0 sentences: held-out loss {losses[0]:.3f} nats/byte", flush=True)
    began = perf_counter()
    async with flow.Session():
        async for tokens, epochs, numbers in pipeline.train.batches(pipeline.BATCH):
            model.train(tokens)
            np.add.at(arrived, (epochs, numbers), 1)
            if (count := arrived.sum()) >= per_epoch * len(losses):
                losses.append(model.loss(held_out))
                rate = count / (perf_counter() - began)
                print(f"{count:5} sentences: held-out loss {losses[-1]:.3f} nats/byte, {rate:.0f}/s", flush=True)
    if path := os.environ.get("SENTENCES_RESULT"):
        np.savez(path, arrived=arrived, losses=losses)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"trainer.py: {type(error).__name__}: {error}")
