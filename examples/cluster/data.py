"""The digits, which come with scikit-learn. The servers do not import this, so that they start quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn has no types

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 0
TRAIN_SIZE = 1437  # four fifths of the 1797 images; the rest is the test set


def digits(part: Literal["train", "test"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images, float32 [n, 64] from 0 to 1, and the labels, int64 [n]; the same split in every process."""
    data: Any = load_digits()  # pyright: ignore[reportUnknownVariableType]
    order = np.random.default_rng(SEED).permutation(len(data.target))
    rows = order[:TRAIN_SIZE] if part == "train" else order[TRAIN_SIZE:]
    return (data.data[rows] / 16).astype(np.float32), data.target[rows].astype(np.int64)
