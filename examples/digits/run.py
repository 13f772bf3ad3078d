"""Runs the whole job on this machine: a server, the loaders and the trainers, each as a process.

    python examples/digits/run.py [--loaders 3 | --graph] [--trainers 2] [--epochs 20]

Every line that they print is shown with the name of its process in front. Loaders and trainers end by themselves when
the data ends; then the server is told to. If one of them fails, or on Ctrl-C, all are ended. With several trainers each
gets a share of the samples for a model of its own; that every sample came exactly once an epoch is checked here, over
all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GRACE_S = 1.2  # how long a process may take to end when it is told to


class PartFailed(Exception):
    """A process failed, or what the trainers counted is wrong."""


async def part(name: str, *arguments: str, env: dict[str, str], until_told: bool = False) -> None:
    """Run one Python program and show its output; when cancelled, end it.

    Raises:
        PartFailed: It failed, or it ended by itself although it runs `until_told`.
    """
    # A process group of its own: Ctrl-C reaches run.py alone, which then ends the others.
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=env, process_group=0
    )
    try:
        print(f"{name:<9} | started as process {process.pid}", flush=True)
        await show(name, process)
    finally:
        if process.returncode is None:
            await end(name, process)
    if process.returncode or until_told:
        raise PartFailed(f"{name} ended with exit code {process.returncode}")


async def show(name: str, process: Process) -> None:
    """Print the lines of a process with its name in front, until it has ended."""
    assert process.stdout is not None
    async for line in process.stdout:
        print(f"{name:<9} | {line.decode(errors='replace').rstrip()}", flush=True)
    await process.wait()


async def end(name: str, process: Process) -> None:
    """Tell a process to end, and kill it if it does not.

    Raises:
        PartFailed: It had to be killed, or it failed while it ended.
    """
    process.terminate()
    try:
        async with asyncio.timeout(GRACE_S):
            await show(name, process)
    except TimeoutError:
        process.kill()
        await process.wait()
    if process.returncode not in (0, -signal.SIGTERM):
        raise PartFailed(f"{name} was told to end and ended with exit code {process.returncode}")


async def run(folder: Path, loader: str, loaders: int, trainers: int, epochs: int) -> None:
    """Run everything until the trainers are done; whatever happens, all processes have ended when this returns."""
    address = f"ipc://{folder}/flow.sock"
    env = os.environ | {
        "AIOFLOW_TARGET": address,
        "DIGITS_LOADERS": str(loaders),
        "DIGITS_TRAINERS": str(trainers),
        "DIGITS_EPOCHS": str(epochs),
        "DIGITS_COUNTS": str(folder),
        "OMP_NUM_THREADS": "1",  # the matrices are small: leave the cores to the other processes
        "PYTHONUNBUFFERED": "1",
    }
    async with asyncio.TaskGroup() as parts:
        # Nobody has to wait until the server is ready: sessions wait for a server that is still starting.
        serve = part("server", "-m", "aioflow", "serve", "--bind", address, env=env, until_told=True)
        server = parts.create_task(serve)
        workers = [
            parts.create_task(part(f"{kind}-{index}", str(HERE / program), str(index), env=env))
            for kind, program, count in (("loader", loader, loaders), ("trainer", "trainer.py", trainers))
            for index in range(count)
        ]
        await asyncio.wait(workers)
        server.cancel()
    check(folder, epochs)


def check(folder: Path, epochs: int) -> None:
    """Add up what the trainers counted.

    Raises:
        PartFailed: A sample came twice, or did not come.
    """
    arrived = np.sum([np.load(path) for path in folder.glob("*.npy")], axis=0)
    if (arrived != 1).any():
        raise PartFailed(f"samples that came twice: {(arrived > 1).sum()}, not at all: {(arrived < 1).sum()}")
    print(f"each of the {arrived.shape[1]} samples arrived exactly once in each of the {epochs} epochs")


async def main() -> int:
    """Read the command line, run until all is done or somebody interrupts, and return the exit code."""
    parser = argparse.ArgumentParser(description="Recognise handwritten digits: loaders, a queue, trainers.")
    loading = parser.add_mutually_exclusive_group()
    loading.add_argument("--loaders", type=int, default=1)
    loading.add_argument("--graph", action="store_true", help="one loader, which is a dataflow graph")
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    code = 0
    try:
        with tempfile.TemporaryDirectory(prefix="aioflow-") as folder:
            loader = "graph_loader.py" if arguments.graph else "loader.py"
            await run(Path(folder), loader, arguments.loaders, arguments.trainers, arguments.epochs)
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
