"""What every process of the job shares: the queue, the variables, the ops, and the graph of a training step.

The servers import it too (`ops=["pipeline"]`): a graph on the wire names ops, and never carries code. Making queues,
variables and graphs does no I/O.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aioflow import Node

STEPS = int(os.environ.get("DIGITS_STEPS", "1000"))  # of all trainers together
PS_TASKS = 2
BATCH = 64
RATE = 0.3
HIDDEN = 32
SEED = 0

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
    model = [
        flow.Variable(_weights(64, HIDDEN), name="hidden/weights"),
        flow.Variable(np.zeros(HIDDEN, np.float32), name="hidden/biases"),
        flow.Variable(_weights(HIDDEN, 10), name="output/weights"),
        flow.Variable(np.zeros(10, np.float32), name="output/biases"),
    ]
    steps = flow.Variable(0, name="steps", trainable=False)
variables = [*model, steps]


@flow.op(num_outputs=5)
def updates(images: Any, labels: Any, done: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> tuple[Any, ...]:
    """Return the loss of a batch, and what to take from each variable: gradients times the learning rate.

    The rate falls to nothing with the last step: gradients of values that another worker has changed meanwhile would
    throw the model about until the end.
    """
    rate = RATE * max(0, 1 - done / STEPS)
    hidden = np.maximum(images @ w1 + b1, 0)
    likely = softmax(hidden @ w2 + b2)
    loss = -np.log(likely[np.arange(len(labels)), labels]).mean()
    wrong = likely.copy()
    wrong[np.arange(len(labels)), labels] -= 1
    wrong *= rate / len(labels)
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


def training_step(worker: int) -> tuple[Node, Node, Node]:
    """Make the graph of a step of one worker: its loss, the number of steps so far, and a node that changes the model.

    The batch is taken where the queue is, and the variables are read and changed where they are; only the arithmetic is
    the worker's. Nobody waits for the other workers: asynchronous gradient descent.
    """
    with flow.Graph(), flow.device(f"/job:worker/task:{worker}"):
        images, labels = samples.nodes.dequeue_many(BATCH)
        with flow.control_dependencies([labels]):  # not before there is a batch: by then they may have changed
            values = [variable.nodes.read() for variable in model]
            done = steps.nodes.assign_add(1)
        loss, *changes = updates(images, labels, done, *values)
        changed = [variable.nodes.assign_sub(change) for variable, change in zip(model, changes, strict=True)]
        return loss, done, flow.group(*changed)


def initializer() -> Node:
    """Make a node that gives the variables their first values."""
    with flow.Graph():
        return flow.group(*(variable.nodes.initializer() for variable in variables))
