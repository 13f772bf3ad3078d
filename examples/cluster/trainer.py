"""Trains the shared variables by steps that run on one worker task, and tests what they have become.

    python trainer.py       # with AIOFLOW_TARGET: the address of its worker's server, and WORKER: that task's index

`run.py` starts one for each worker. The exit code is 1 where the model is worse than 93 %. Servers may be lost on the
way: a worker that comes back goes on where it was, as the variables are on the ps job; a ps task that comes back has
lost its variables, and as nobody has saved them the training starts from the first values.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import pipeline
from data import digits

import aioflow as flow

WORKER = int(os.environ.get("WORKER", "0"))
ACCURACY_MIN = 0.93
OUTAGES_MAX = 10


async def prepare(session: flow.Session) -> None:
    """Give all variables their first values if one has none. Waits for a ps task that is still starting.

    Another trainer may do the same at the same time; that costs the steps in between and nothing else.
    """
    try:
        for variable in pipeline.variables:
            await variable.read()
    except flow.NotInitialised:
        print("gives the variables their first values", flush=True)
        await session.run(pipeline.initializer())


async def train(session: flow.Session) -> None:
    """Run steps until all trainers together have made enough of them, or the queue was closed."""
    fetches = pipeline.training_step(WORKER)
    with suppress(flow.EndOfQueue):
        done = own = 0
        while done < pipeline.STEPS:
            loss, done, _ = await session.run(fetches)
            own += 1
            if own == 1 or own % 50 == 0:
                print(f"step {own} here, {done} in all, loss {loss:.3f}", flush=True)


async def make_model() -> float:
    """Train, test, and tell the loader that there was enough; return the accuracy."""
    for _ in range(OUTAGES_MAX):
        try:
            async with flow.Session() as session:
                await prepare(session)
                await train(session)
                values = [await variable.read() for variable in pipeline.model]
                await pipeline.samples.close(cancel_pending_enqueues=True)
                return pipeline.accuracy(*digits("test"), *values)
        except (flow.ConnectionLost, flow.NotInitialised, flow.QueueReset) as lost:
            print(f"{type(lost).__name__}: {lost}", flush=True)
    sys.exit(f"gave up after {OUTAGES_MAX} outages")


async def main() -> None:
    """Make the model, and say how good it is."""
    reached = await make_model()
    print(f"the shared model recognises {reached:.1%} of the test images")
    if reached < ACCURACY_MIN:
        sys.exit(f"expected at least {ACCURACY_MIN:.0%}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
