"""A training loop without an event loop: `aioflow.blocking` has the same queues for plain functions and threads.

    python examples/blocking_trainer.py

A training loop in PyTorch or NumPy is seldom asynchronous, and need not become so. `session.batches` is an ordinary
iterator, any thread may use the session, and since there is nothing to cancel a call with, calls take `timeout=` in
seconds. Here the loader is a thread, and the session is embedded; with `blocking.Session("ipc:///tmp/flow.sock")` the
loader may as well be another program, blocking or not.
"""

from __future__ import annotations

from threading import Thread

import numpy as np

import aioflow as flow
from aioflow import blocking

SAMPLES = 2000
BATCH = 32
SLOPE, OFFSET = 3.0, -1.0  # what is to be learned: y = 3 x - 1

train = flow.FIFOQueue(capacity=256, dtypes=["float32", "float32"], shapes=[[], []], producers=1)


def load(session: blocking.Session) -> None:
    """Put samples of a noisy line; when the last producer leaves, the queue closes."""
    rng = np.random.default_rng(0)
    with session.producer(train), session.writer(train) as writer:
        for _ in range(SAMPLES):
            x = rng.uniform(-1, 1)
            writer.write((x, SLOPE * x + OFFSET + rng.normal(0, 0.1)))


def main() -> None:
    """Fit a line to what comes, by gradient descent, and print it now and then."""
    slope = offset = 0.0
    seen = 0
    with blocking.Session() as session:
        try:
            session.dequeue(train, timeout=0.01)
        except TimeoutError:
            print("nothing came within 10 ms: no loader has started")
        loader = Thread(target=load, args=[session])
        loader.start()
        for step, (x, y) in enumerate(session.batches(train, BATCH), 1):
            error = slope * x + offset - y
            slope -= 0.3 * float((error * x).mean())
            offset -= 0.3 * float(error.mean())
            seen += len(x)
            if step % 20 == 0:
                print(f"step {step}: y = {slope:.1f} x {offset:+.1f}, loss {(error**2).mean():.3f}")
        loader.join()
    print(f"learned from {seen} samples: y = {slope:.1f} x {offset:+.1f}")


if __name__ == "__main__":
    main()
