"""A program that puts numbered elements until SIGTERM: `producer.py NUMBER SETTINGS`, the settings in JSON.

Settings: `config` of the session; `bytes` of payload and the `queue`'s other arguments; `rows` of one call; `parallel`
calls; `count` of calls of each, after which it waits; `rejoin_s` of its registration.

What happens is written to the output at once, a line with a single write each, so that it survives a SIGKILL: a word,
the time, and the elements as NUMBER:PLACE. `ready`: it is registered. `try`: a call begins. `in`: it has returned.
`reset`: it has raised QueueReset.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from time import monotonic

import anyio
import numpy as np

import aioflow as flow

NUMBER, SETTINGS = int(sys.argv[1]), json.loads(sys.argv[2])
ROWS = SETTINGS["rows"]


def record(what: str, *words: str) -> None:
    os.write(1, (" ".join((what, repr(monotonic()), *words)) + "\n").encode())


async def put_all(q: flow.Queue, first: int) -> None:
    stride = ROWS * SETTINGS["parallel"]
    for place in itertools.islice(itertools.count(first, stride), SETTINGS["count"]):
        places = range(place, place + ROWS)
        elements = [f"{NUMBER}:{each}" for each in places]
        payload = np.full((ROWS, SETTINGS["bytes"]), NUMBER, np.uint8)
        record("try", *elements)
        try:
            if ROWS == 1:
                await q.enqueue((NUMBER, place, payload[0]))
            else:
                await q.enqueue_many(([NUMBER] * ROWS, list(places), payload))
        except flow.QueueReset:
            record("reset")
        else:
            record("in", *elements)
    await anyio.sleep_forever()


async def main() -> None:
    q = flow.FIFOQueue(
        dtypes=["int64", "int64", "uint8"], shapes=[(), (), (SETTINGS["bytes"],)], shared_name="q", **SETTINGS["queue"]
    )
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            flow.Session(config=flow.SessionConfig(**SETTINGS["config"])),
            q.producer(f"producer-{NUMBER}", SETTINGS["rejoin_s"]),
            anyio.create_task_group() as tasks,
        ):
            record("ready")
            for number in range(SETTINGS["parallel"]):
                tasks.start_soon(put_all, q, number * ROWS)
            await anext(signals)
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
