"""A server with settings of its own: `server.py ADDRESS CONFIG`, in JSON; else as `aioflow serve`."""

from __future__ import annotations

import json
import signal
import sys

import anyio

import aioflow as flow


async def main() -> None:
    _, address, config = sys.argv
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with flow.Server({"local": [address]}, config=flow.SessionConfig(**json.loads(config))) as server:
            print(f"aioflow serves at {server.address}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    anyio.run(main)
