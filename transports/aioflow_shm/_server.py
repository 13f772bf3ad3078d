"""The server: a listening socket, and the ends of the connections that were accepted."""

from __future__ import annotations

import errno
import logging
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import anyio

from aioflow.errors import ConnectFailed
from aioflow.watch import watch
from aioflow_shm._budget import Budget
from aioflow_shm._client import check_user
from aioflow_shm._end import End, Turns
from aioflow_shm._forks import current_generation
from aioflow_shm._lock import SocketFile
from aioflow_shm._parcels import GREETING

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from aioflow.transport import Connection, Receiver
    from aioflow_shm._arena import Arena
    from aioflow_shm._segments import Segments

logger = logging.getLogger("aioflow.shm")

# At the limit of descriptors nothing can be accepted until one is free again.
_ACCEPT_AGAIN_S = 0.1
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Server:
    """A bound address. Its life: `run` until `aclose` or a cancel, then everything is closed.

    Args:
        path: Of the socket file.
        accept: Called with each new connection, when its first message is there; returns who receives its messages.
        make_segments: Makes what a connection writes in, given the name of the other end and the server's memory.
        task_group: Where its connections run.

    Raises:
        AddressInUse: Another server has the address.
        ConnectFailed: It cannot be bound.
    """

    def __init__(
        self,
        path: str,
        accept: Callable[[Connection], Receiver],
        make_segments: Callable[[str, Arena], Segments],
        task_group: TaskGroup,
    ) -> None:
        self._address = f"shm://{path}"
        self._accept = accept
        self._make_segments = make_segments
        self._task_group = task_group
        self._numbers = count(1)
        self._turns = Turns()
        self._generation = current_generation()
        self._closing = False
        self._finished = anyio.Event()
        self._ends: set[End] = set()
        self._budget = Budget(self._turns, task_group, self._finished)
        self._file = SocketFile(path)
        self._watch = watch(self._file.listener.fileno(), self._accept_all, lambda: True)

    @property
    def address(self) -> str:
        """The address as bound."""
        return self._address

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory shared with clients, counted once; also what those that are gone have left in use."""
        return self._budget.arena.nbytes

    async def run(self) -> None:
        """Accept connections until the listener is closed."""
        try:
            await self._watch.run()
        finally:
            self._closing = True
            self._file.release()
            self._finished.set()

    async def aclose(self) -> None:
        """Accept nothing new and close every connection, each after what was sent to it has been written."""
        if self._generation != current_generation():
            return
        self._closing = True
        self._watch.stop()
        try:
            async with anyio.create_task_group() as tasks:
                for end in tuple(self._ends):
                    tasks.start_soon(end.aclose)
        finally:
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    def _accept_all(self) -> None:
        while not self._closing:
            try:
                accepted, _ = self._file.listener.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTOR:
                    logger.warning("%s cannot accept a connection: %s; raise ulimit -n", self._address, error)
                    self._watch.ignore()
                    self._task_group.start_soon(self._accept_later)
                return  # nobody waits any more, or who did has gone
            accepted.settimeout(0)
            name = f"{self._address} client {next(self._numbers)}"
            try:
                check_user(self._address, accepted)
                accepted.send(GREETING)
            except (ConnectFailed, OSError) as error:
                accepted.close()
                logger.info("%s was not accepted: %s", name, error)
                continue
            segments = self._make_segments(name, self._budget.arena)
            end = End(name, accepted, self._turns, segments, None, self._accept, self._budget)
            self._ends.add(end)
            self._budget.shared.add(end.sharing)
            self._task_group.start_soon(self._run_end, end, name=f"aioflow {name}")

    async def _accept_later(self) -> None:
        with anyio.move_on_after(_ACCEPT_AGAIN_S):
            await self._finished.wait()
        self._watch.heed()

    async def _run_end(self, end: End) -> None:
        try:
            await end.run()
        finally:
            self._ends.remove(end)
            self._turns.take(partial(self._budget.left, end.sharing))
