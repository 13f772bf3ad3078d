"""What runs inside Ray's workers: an actor for each task of a cluster, and one for each copy of a program.

1. A task's server runs in the actor's own process, in a loop of its own, from `__init__` on: Ray runs nothing else
   again after a restart, and a detached actor may have no driver left.
2. A program is a process that the actor supervises, and that ends with it: its driver calls `run` after each restart.
3. Ray shows what an actor prints behind its `repr`, as it is after `__init__`; so nothing is printed before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from ray.util import get_current_placement_group

from aioflow.cluster import Server, parse_cluster, prepare_process, run_starts
from aioflow.errors import AioflowError, ProcessFailed
from aioflow.runtime import LoopThread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster import Running, Start

__all__ = ["ProgramActor", "TaskActor"]

logger = logging.getLogger("aioflow.ray")


class TaskActor:
    """The server of one task.

    Args:
        name: Such as `/job:ps/task:0`.
        job: Its job.
        task: Its index there.
        cluster: All tasks and the settings, as `cluster.toml` has them.
        ops: Modules whose ops graphs may name.
        launched: What the cluster was launched with, to compare.
    """

    def __init__(self, name: str, job: str, task: int, cluster: str, ops: Sequence[str], launched: str) -> None:
        self._name = name
        self._make = partial(self._make_server, job, task, cluster, ops)
        self._launched = launched
        self._server: Server | None = None
        self._error: AioflowError | None = None
        self._is_announced = False
        prepare_process()
        self._loop = LoopThread(name, self._close)
        self._loop.start()
        try:
            self._loop.call(self._start)
        except AioflowError as error:  # for `ready`: raised here it would be one of Ray's, with a traceback for a text
            self._error = error

    def __repr__(self) -> str:
        """Return the name, which Ray shows in front of each line."""
        return self._name

    async def process(self) -> tuple[int, int, int]:
        """Return the number of this process, the same as that of the server, and 0: it restarts nothing.

        Raises:
            AioflowError: The server could not be started.
        """
        if self._error is not None:
            raise self._error
        if not self._is_announced:
            assert self._server is not None
            print(f"aioflow serves at {self._server.address}", flush=True)  # noqa: T201 - Ray shows it
            self._is_announced = True
        return os.getpid(), os.getpid(), 0

    async def launched(self) -> tuple[str, Any]:
        """Return what the cluster was launched with, and the placement group of this actor."""
        return self._launched, get_current_placement_group()

    async def run(self) -> None:
        """Wait for ever: who waits for this sees the end of the process."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop the server in order."""
        await asyncio.to_thread(self._loop.stop)

    @staticmethod
    def _make_server(job: str, task: int, cluster: str, ops: Sequence[str]) -> Server:
        read = parse_cluster(cluster, "what the driver sent")
        return Server(read.cluster, job, task, config=read.config, ops=ops)

    async def _start(self) -> None:
        server = self._make()
        self._server = await server.start()
        self._loop.spawn(self._watch)

    async def _watch(self) -> None:
        assert self._server is not None
        try:
            await self._server.join()
        except Exception:
            logger.exception("%s broke; its process ends, and Ray starts it again", self._name)
            os._exit(1)

    async def _close(self) -> None:
        if self._server is not None:
            await self._server.close()


class ProgramActor:
    """One copy of a program, as a process that is started again until it is done.

    Args:
        start: Its name, command, environment and target.
    """

    def __init__(self, start: Start) -> None:
        command, *arguments = start.command
        words = (sys.executable if command == "python" else command, *arguments)
        self._start = replace(start, command=words)
        self._running: Running | None = None
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        """Return the name, which Ray shows in front of each line."""
        return self._start.name

    async def run(self) -> tuple[str, int | None] | None:
        """Run it until it is done or was stopped; or return why it makes no sense to go on, and its last exit code."""
        try:
            with self._scope:
                async with run_starts([self._start]) as self._running:
                    await self._running.join()
        except ProcessFailed as failed:
            return str(failed), failed.code
        return None

    async def process(self) -> tuple[int, int | None, int]:
        """Return the number of this process, that of the program or None, and how often that was started again."""
        if self._running is None:
            return os.getpid(), None, 0
        info = self._running.processes[self._start.name]
        return os.getpid(), info.pid, info.restarts

    async def stop(self) -> None:
        """End the process; `run` returns then."""
        self._scope.cancel()
