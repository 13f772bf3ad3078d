"""Several producers, one end: the queue closes when the last one has left, and says so if one of them failed.

    python examples/many_producers.py

Three loaders, each a process, read a "file" of numbers and put them into one queue; the program that you start serves
the queue and takes them out. `producers=3` says how many have to come before the leaving of the last one counts, so a
fast loader cannot end the data before a slow one has started.

The file of loader-1 is broken. Its numbers up to there arrive, the others go on undisturbed, and at the end the
consumer is told who was lost, and by what: the traceback comes from the other process. Without that, an epoch that is
too short would look like any other.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import textwrap
from asyncio.subprocess import DEVNULL

import aioflow as flow

FILES = {"loader-0": "1 2 3 4", "loader-1": "10 20 thirty 40", "loader-2": "100 200 300 400"}

numbers = flow.FIFOQueue(capacity=2, dtypes=["int64"], shapes=[[]], shared_name="numbers", producers=len(FILES))


async def load(name: str, address: str) -> None:
    """Put one file into the queue, as a producer with a name; this runs in a process of its own."""
    async with flow.Session(address), numbers.producer(name):
        for word in FILES[name].split():
            await numbers.enqueue(int(word))


async def take(address: str) -> None:
    """Add up what comes, and look at how it ends."""
    count = total = 0
    async with flow.Session(address):
        try:
            async for number in numbers:
                count += 1
                total += int(number)
        except flow.EndOfQueue as end:  # without a lost producer the loop would simply end
            for lost in end.lost_producers:
                print(f"{lost.name} was lost: {lost.reason}")
                print(textwrap.indent(lost.traceback, "    "), end="")
    print(f"took {count} numbers, their sum is {total}")


async def main() -> None:
    """Serve the queue, start the loaders, and take what they put."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"ipc://{folder}/flow.sock"
        async with flow.Server({"local": [address]}):
            loaders = [
                # What a loader prints when it fails is not needed here: it is told through the queue.
                await asyncio.create_subprocess_exec(sys.executable, __file__, name, address, stderr=DEVNULL)
                for name in FILES
            ]
            await take(address)
            for loader, name in zip(loaders, FILES, strict=True):
                print(f"{name} ended with exit code {await loader.wait()}")


if __name__ == "__main__":
    asyncio.run(load(*sys.argv[1:]) if sys.argv[1:] else main())
