"""The loader as a dataflow graph: four steps at once, each of which reads samples, augments them and enqueues them.

    python graph_loader.py

`run.py --graph` starts it in the place of `loader.py`. By hand, set AIOFLOW_TARGET to the address of a server first.

The graph runs here, in an embedded session, and so does the queue of sample numbers from which it starts. The queue
that it fills is on the server: `queue.on(session).nodes` are nodes of that session's queue in any graph. Nobody starts
threads: the runner runs the enqueue node again and again until the numbers end, and closes the queue then.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pipeline

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 4  # at once
CHUNK = 24  # samples for each step
NOISE = 0.02

images, labels = pipeline.samples("train")


@flow.op(num_outputs=2)
def read(numbers: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images and labels of some samples; a real loader reads files here, on a thread of its own."""
    return images[numbers], labels[numbers]


@flow.op
def augment(clean: NDArray[np.float32], numbers: NDArray[np.int64], epoch: int) -> NDArray[np.float32]:
    """Add a little noise, another one in each epoch."""
    rng = np.random.default_rng([pipeline.SEED, epoch, *numbers])
    return clean + rng.normal(0, NOISE, clean.shape).astype(np.float32)


def build(numbers: flow.FIFOQueue, samples: Any, epoch: int) -> flow.Node:
    """Make the nodes of one epoch; return the one that enqueues, which a step has to run."""
    chosen = numbers.nodes.dequeue_up_to(CHUNK)
    clean, label = read(chosen)
    noisy = augment(clean, chosen, epoch)
    done: flow.Node = samples.nodes.enqueue_many((noisy, label, chosen))
    return done


async def main() -> None:
    """Fill one epoch after the other."""
    steps = 0
    # The session that is entered last is the current one: the graph runs there.
    async with flow.Session(os.environ["AIOFLOW_TARGET"]) as server, flow.Session(""):
        for epoch in range(pipeline.EPOCHS):
            order = np.random.default_rng([pipeline.SEED, epoch]).permutation(pipeline.TRAIN_SIZE)
            numbers = flow.FIFOQueue(pipeline.TRAIN_SIZE, dtypes=["int64"], shapes=[[]])
            await numbers.enqueue_many(order)
            await numbers.close()
            samples = pipeline.train.epoch(epoch).on(server)
            with flow.Graph() as graph:
                enqueue = build(numbers, samples, epoch)
            # As a producer it is missed if it is killed. Leaving the block would stop the runner: wait for its end.
            async with samples.producer("graph-loader"), flow.Coordinator() as coordinator:
                coordinator.start(flow.QueueRunner(samples, [enqueue] * STEPS))
                await coordinator.join()
            steps += len(graph.nodes)
    print(f"{pipeline.EPOCHS} epochs loaded by graphs of {steps // pipeline.EPOCHS} nodes, {STEPS} steps at a time")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
