"""Another process for the tests of transports: `peer.py ROLE ADDRESS`. It ends when it is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectFailed
from aioflow.testing._transport_ends import Inbox, Stage, echo
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from aioflow.transport import Frame

# Sent before the kill: it has reached the kernel once the answer to a later message is there.
MESSAGES = 500


async def serve(address: str) -> None:
    """Answer each message with itself."""
    async with anyio.create_task_group() as tasks:
        stage = Stage(find_transport(address), tasks)
        stage.on_message = echo
        await stage.listen(address)
        print(stage.address, flush=True)


async def talk(address: str) -> None:
    """Connect and send."""
    async with anyio.create_task_group() as tasks:
        inbox = Inbox()
        connection = await find_transport(address).connect(address, inbox, tasks)
        for i in range(MESSAGES):
            connection.send([b"%d" % i])
        await anyio.sleep_forever()


async def fork(address: str) -> None:
    """Connect, send, and fork a child that outlives this process; the child's use of the connection is refused."""
    async with anyio.create_task_group() as tasks:
        inbox = Inbox()
        connection = await find_transport(address).connect(address, inbox, tasks)
        connection.send([b"hello"])
        if os.fork() == 0:
            try:
                connection.send([b"from the child"])
            except ConnectFailed as error:
                print(os.getpid(), "refused" if "forked" in str(error) else error, flush=True)
            while True:
                signal.pause()
        await anyio.sleep_forever()


async def beat(address: str) -> None:
    """Send beats, and when one was answered, fork a child that outlives this process, and block the event loop."""
    answered = threading.Event()

    def read(frames: list[Frame]) -> int:
        answered.set()
        return int(bytes(frames[0]))

    await find_transport(address).beat(address, lambda number: [b"%d" % number], read, 0.01)
    answered.wait()
    if (child := os.fork()) != 0:
        print(child, flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    anyio.run({"serve": serve, "talk": talk, "fork": fork, "beat": beat}[sys.argv[1]], sys.argv[2])
