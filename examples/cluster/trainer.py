"""Trains the shared variables by steps that run on one worker task, and tests them at the end of the data.

    python trainer.py       # with AIOFLOW_TARGET: the address of its worker's server, and WORKER: that task's index

`run.py` starts one for each worker. The exit code is 1 where the model is worse than 93 %.
"""

from __future__ import annotations

import asyncio
import os
import sys

import pipeline

import aioflow as flow

WORKER = int(os.environ.get("WORKER", "0"))
ACCURACY_MIN = 0.93
OUTAGES_MAX = 10


async def train() -> int:
    """Run steps until the queue ends; return how many. A worker that was lost and comes back goes on where it was."""
    fetches = pipeline.training_step(WORKER)
    steps = 0
    for _ in range(OUTAGES_MAX):
        try:
            async with flow.Session() as session:
                while True:
                    loss, _ = await session.run(fetches)
                    steps += 1
                    if steps % 100 == 0:
                        print(f"step {steps}, loss {loss:.3f}", flush=True)
        except flow.EndOfQueue:
            return steps
        except flow.ConnectionLost as lost:  # the variables are on the ps job: nothing but one step is gone
            print(f"after {steps} steps: {lost}", flush=True)
    sys.exit(f"gave up after {OUTAGES_MAX} outages")


async def main() -> None:
    """Train, and test."""
    steps = await train()
    async with flow.Session():
        values = [await variable.read() for variable in pipeline.variables]
    reached = pipeline.accuracy(*pipeline.digits("test"), *values)
    print(f"{steps} steps; the shared model recognises {reached:.1%} of the test images")
    if reached < ACCURACY_MIN:
        sys.exit(f"expected at least {ACCURACY_MIN:.0%}")


if __name__ == "__main__":
    asyncio.run(main())
