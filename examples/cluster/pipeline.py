"""What every process of the job shares: the data, the queue, the variables, the ops, and the graph of a training step.

The servers import it too (`ops=["pipeline"]`): a graph on the wire names ops, and never carries code. Making queues,
variables and graphs does no I/O.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn has no types

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aioflow import Node

EPOCHS = int(os.environ.get("DIGITS_EPOCHS", "30"))
PS_TASKS = 2
BATCH = 32
RATE = 0.2
HIDDEN = 32
SEED = 0
TRAIN_SIZE = 1437  # four fifths of the 1797 images; the rest is the test set

# On one task of the job ps, so that loaders and trainers find the same one whichever server they speak to.
samples = flow.RandomShuffleQueue(
    capacity=1024,
    min_after_dequeue=256,
    dtypes=["float32", "int64"],
    shapes=[[64], []],
    shared_name="samples",
    device="/job:ps/task:0",
)


def _weights(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).normal(0, rows**-0.5, (rows, columns)).astype(np.float32)


# Dealt to the ps tasks in turn.
with flow.device(flow.replica_device_setter(ps_tasks=PS_TASKS)):
    variables = [
        flow.Variable(_weights(64, HIDDEN), name="hidden/weights"),
        flow.Variable(np.zeros(HIDDEN, np.float32), name="hidden/biases"),
        flow.Variable(_weights(HIDDEN, 10), name="output/weights"),
        flow.Variable(np.zeros(10, np.float32), name="output/biases"),
    ]


@flow.op(num_outputs=5)
def updates(images: Any, labels: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> tuple[Any, ...]:
    """Return the loss of a batch, and what to take from each variable: gradients times the learning rate."""
    hidden = np.maximum(images @ w1 + b1, 0)
    likely = softmax(hidden @ w2 + b2)
    loss = -np.log(likely[np.arange(len(labels)), labels]).mean()
    wrong = likely.copy()
    wrong[np.arange(len(labels)), labels] -= 1
    wrong *= RATE / len(labels)
    back = (wrong @ w2.T) * (hidden > 0)
    return loss, images.T @ back, back.sum(0), hidden.T @ wrong, wrong.sum(0)


def softmax(scores: Any) -> Any:
    """Return probabilities of scores."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def accuracy(images: Any, labels: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> float:
    """Return how many of the images are recognised, from 0 to 1."""
    guessed = (np.maximum(images @ w1 + b1, 0) @ w2 + b2).argmax(axis=1)
    return float((guessed == labels).mean())


def training_step(worker: int) -> tuple[Node, Node]:
    """Make the graph of a step of one worker; returns its loss, and a node that has run when the variables changed.

    The batch is taken where the queue is, and the variables are read and changed where they are; only the arithmetic is
    the worker's. Nobody waits for the other workers: asynchronous gradient descent.
    """
    with flow.Graph(), flow.device(f"/job:worker/task:{worker}"):
        images, labels = samples.nodes.dequeue_many(BATCH)
        with flow.control_dependencies([labels]):  # not before there is a batch: by then they may have changed
            values = [variable.nodes.read() for variable in variables]
        loss, *changes = updates(images, labels, *values)
        changed = [variable.nodes.assign_sub(change) for variable, change in zip(variables, changes, strict=True)]
        return loss, flow.group(*changed)


def initializer() -> Node:
    """Make a node that gives the variables their first values."""
    with flow.Graph():
        return flow.group(*(variable.nodes.initializer() for variable in variables))


def digits(part: Literal["train", "test"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images, float32 [n, 64] from 0 to 1, and the labels, int64 [n]; the same split in every process."""
    data: Any = load_digits()  # pyright: ignore[reportUnknownVariableType]
    order = np.random.default_rng(SEED).permutation(len(data.target))
    rows = order[:TRAIN_SIZE] if part == "train" else order[TRAIN_SIZE:]
    return (data.data[rows] / 16).astype(np.float32), data.target[rows].astype(np.int64)
