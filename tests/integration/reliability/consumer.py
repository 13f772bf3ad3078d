"""A program that takes elements until their end: `consumer.py NUMBER SETTINGS`, the settings in JSON.

Settings: `config` of the session; `bytes` of payload and the `queue`'s other arguments; `how` to take, and how many
`rows` with one call.

What happens is written to the output at once, a line with a single write each, so that it survives a SIGKILL: a word,
the time, and more. `ready`: its session is open. `out`: a call has returned; its elements, as NUMBER:PLACE. `reset`: it
has raised QueueReset. `end`: the queue has ended; the names of lost producers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import anyio
import numpy as np

import aioflow as flow

SETTINGS = json.loads(sys.argv[2])
HOW, ROWS = SETTINGS["how"], SETTINGS["rows"]


def record(what: str, *words: str) -> None:
    os.write(1, (" ".join((what, repr(monotonic()), *words)) + "\n").encode())


def calls(q: flow.Queue) -> Callable[[], Awaitable[Any]]:
    if HOW in {"batches", "iterate"}:
        return (q.batches(ROWS) if HOW == "batches" else aiter(q)).__anext__
    if HOW == "dequeue":
        return q.dequeue
    return lambda: getattr(q, HOW)(ROWS)


def elements(result: Any) -> list[str]:
    numbers, places, payload = map(np.asarray, result)
    ends = payload.reshape(places.size, -1)[:, [0, -1]]
    assert (ends == numbers.reshape(-1, 1)).all(), "a payload of another element"
    return [f"{number}:{place}" for number, place in zip(numbers.flat, places.flat, strict=True)]


async def main() -> None:
    q = flow.FIFOQueue(
        dtypes=["int64", "int64", "uint8"], shapes=[(), (), (SETTINGS["bytes"],)], shared_name="q", **SETTINGS["queue"]
    )
    async with flow.Session(config=flow.SessionConfig(**SETTINGS["config"])):
        record("ready")
        call = calls(q)
        while True:
            try:
                result = await call()
            except flow.QueueReset:
                record("reset")
            except StopAsyncIteration:
                record("end")
                return
            except flow.EndOfQueue as end:
                record("end", *(lost.name for lost in end.lost_producers))
                return
            else:
                record("out", *elements(result))


if __name__ == "__main__":
    anyio.run(main)
