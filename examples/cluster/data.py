"""The digits, which come with scikit-learn: read from its file, as importing it takes each process a second."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0
TRAIN_SIZE = 1437  # four fifths of the 1797 images; the rest is the test set


def digits(part: Literal["train", "test"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images, float32 [n, 64] from 0 to 1, and the labels, int64 [n]; the same split in every process."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        sys.exit("the digits come with scikit-learn: pip install scikit-learn")
    table = np.loadtxt(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", np.int64, delimiter=",")
    order = np.random.default_rng(SEED).permutation(len(table))
    rows = table[order[:TRAIN_SIZE] if part == "train" else order[TRAIN_SIZE:]]
    return (rows[:, :-1] / 16).astype(np.float32), rows[:, -1]
