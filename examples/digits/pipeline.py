"""What the loaders and the trainers share: the queues, the data, and the numbers that both must agree on.

A queue object is only a definition: making one here does nothing. Each program that imports this module and opens a
session finds the same queues on the server, by their shared names.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOADERS = int(os.environ.get("DIGITS_LOADERS", "1"))
TRAINERS = int(os.environ.get("DIGITS_TRAINERS", "1"))
EPOCHS = int(os.environ.get("DIGITS_EPOCHS", "20"))
BATCH = 32
SEED = 0

TRAIN_SIZE = 1437  # four fifths of the 1797 images; the rest is the test set

# An element is one sample: its image, its label, and its number, by which the trainers count what arrives.
# The queue holds less than a loader's share (of up to five loaders), so no loader is more than one epoch ahead.
train = flow.RandomShuffleQueue(
    capacity=256,
    min_after_dequeue=128,
    dtypes=["float32", "int64", "int64"],
    shapes=[[64], [], []],
    shared_name="digits",
    producers=LOADERS,
)

# Never holds anything: it closes when all trainers have been its producers, which is how they wait for each other.
_start = flow.FIFOQueue(capacity=1, dtypes=["bool"], shapes=[[]], shared_name="digits-start", producers=TRAINERS)


async def all_trainers() -> None:
    """Wait until every trainer has come here, so that none begins with what another one left over."""
    async with _start.producer():
        pass
    async for _ in _start:
        pass


def samples(part: Literal["train", "test"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images, float32 [n, 64] from 0 to 1, and the labels, int64 [n]; the same split in every process.

    They are read from a file of scikit-learn's: importing it takes each process a second.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("the digits come with scikit-learn: pip install scikit-learn")
    table = np.loadtxt(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", np.int64, delimiter=",")
    order = np.random.default_rng(SEED).permutation(len(table))
    rows = table[order[:TRAIN_SIZE] if part == "train" else order[TRAIN_SIZE:]]
    return (rows[:, :-1] / 16).astype(np.float32), rows[:, -1]
