"""Runs the whole job on this machine: a server, the loaders and the trainer, each as a process.

    python examples/sentences/run.py [--loaders 3] [--epochs 5]

Loaders and trainer end by themselves when the data ends; then the server is told to. If one of them fails, or on
Ctrl-C, all are ended. The exit code is 1 if a sentence did not arrive exactly once an epoch, or if too little was
learned.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LOSS_MAX = 2.6  # nats per byte; 5.5 is to know nothing, 3.3 to know how frequent each byte is
GRACE_S = 1.2  # how long a process may take to end when it is told to


class PartFailed(Exception):
    """A process failed, or what the trainer found is not as it should be."""


async def part(name: str, *arguments: str, env: dict[str, str]) -> None:
    """Run one Python program, whose output goes where ours goes; when cancelled, end it.

    Raises:
        PartFailed: It failed.
    """
    # A process group of its own: Ctrl-C reaches run.py alone, which then ends the others.
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=DEVNULL, env=env, process_group=0)
    try:
        print(f"{name:<8} | started as process {process.pid}", flush=True)
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(GRACE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
    if process.returncode:
        raise PartFailed(f"{name} ended with exit code {process.returncode}")


async def run(folder: Path, loaders: int, epochs: int) -> None:
    """Run everything until the trainer is done; whatever happens, all processes have ended when this returns."""
    address = f"ipc://{folder}/flow.sock"
    env = os.environ | {
        "AIOFLOW_TARGET": address,
        "SENTENCES_LOADERS": str(loaders),
        "SENTENCES_EPOCHS": str(epochs),
        "SENTENCES_RESULT": str(folder / "result.npz"),
        "OMP_NUM_THREADS": "1",  # the matrices are small: leave the cores to the other processes
    }
    async with asyncio.TaskGroup() as parts:
        # Nobody has to wait until the server is ready: sessions wait for a server that is still starting.
        server = parts.create_task(part("server", "-m", "aioflow", "serve", "--bind", address, env=env))
        programs = {f"loader-{index}": ["loader.py", str(index)] for index in range(loaders)}
        programs["trainer"] = ["trainer.py"]
        workers = [
            parts.create_task(part(name, str(HERE / program), *arguments, env=env))
            for name, (program, *arguments) in programs.items()
        ]
        await asyncio.wait(workers)
        server.cancel()
    check(folder / "result.npz")


def check(result: Path) -> None:
    """Say what the trainer found.

    Raises:
        PartFailed: A sentence came twice or not at all, or the held-out loss did not fall far enough.
    """
    with np.load(result) as found:
        arrived, losses = found["arrived"], found["losses"]
    if (arrived != 1).any():
        raise PartFailed(f"sentences that came twice: {(arrived > 1).sum()}, not at all: {(arrived < 1).sum()}")
    epochs, count = arrived.shape
    print(f"each of the {count} sentences arrived exactly once in each of the {epochs} epochs")
    if losses[-1] > LOSS_MAX:
        raise PartFailed(f"the held-out loss is {losses[-1]:.3f} nats/byte, expected at most {LOSS_MAX}")
    print(f"the held-out loss fell from {losses[0]:.3f} to {losses[-1]:.3f} nats/byte")


async def main() -> int:
    """Read the command line, run until all is done or somebody interrupts, and return the exit code."""
    parser = argparse.ArgumentParser(description="Learn to guess the next byte of a text: loaders, a queue, a trainer.")
    parser.add_argument("--loaders", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    code = 0
    try:
        with tempfile.TemporaryDirectory(prefix="aioflow-") as folder:
            await run(Path(folder), arguments.loaders, arguments.epochs)
    except* PartFailed as failed:
        for error in failed.exceptions:
            print(f"run.py: {error}", file=sys.stderr)
        code = 1
    return code


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except asyncio.CancelledError:
        sys.exit(130)
