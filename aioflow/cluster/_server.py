"""A server: hosts a broker on a transport. The shell around `_broker`; it decides nothing but when to stop."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
from typing import TYPE_CHECKING, Self

import anyio
import numpy as np

from aioflow.cluster._broker import Broker, PeerId, TaskInfo
from aioflow.cluster._codec import decode
from aioflow.cluster._library import OpLibrary
from aioflow.cluster._nearby import listen_nearby
from aioflow.cluster._receipts import ReceiptsPage
from aioflow.cluster._service import StepService
from aioflow.cluster._spec import ClusterSpec
from aioflow.errors import AddressInUse, LocalProtocolError, PlacementError, RemoteProtocolError, SessionError
from aioflow.keys import name_credentials
from aioflow.resources import Resources
from aioflow.runtime import Background, SessionConfig, Timer, event_loop_clock, finish, now
from aioflow.transport import find_transport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from anyio.abc import TaskGroup

    from aioflow.errors import LostProducer, TransportError
    from aioflow.keys import KeyPath
    from aioflow.transport import AnyFrame, Connection, Listener

__all__ = ["Server"]

logger = logging.getLogger("aioflow.server")


class Server:
    """Holds the queues of one task of a cluster and serves them to any number of sessions.

    `async with Server(...)` starts and stops it; `join` waits until it is stopped. Its queues end with it.
    """

    def __init__(
        self,
        cluster: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]],
        job_name: str | None = None,
        task_index: int | None = None,
        *,
        config: SessionConfig | None = None,
        ops: Sequence[str] = (),
        credentials: KeyPath | None = None,
    ) -> None:
        """Make a server; nothing is bound yet.

        Args:
            cluster: Where the tasks are.
            job_name: Which job this server belongs to; may be left out where there is one.
            task_index: Which of its tasks it is; 0 where left out.
            config: Settings; the defaults where None.
            ops: Modules whose ops graphs may name; they are imported now, and no others ever.
            credentials: The folder of keys that says who is let in (`aioflow keys make`); None is what the environment
                variable AIOFLOW_KEYS names, else no keys: then anybody who reaches the address is let in, and one
                beyond ipc and loopback is refused.

        Raises:
            PlacementError: The cluster has no such task, or several jobs and none was named.
            UnknownOp: A module of `ops` cannot be imported.
        """
        self._credentials = name_credentials(credentials)
        spec = ClusterSpec(cluster)
        if job_name is None and len(spec.jobs) != 1:
            raise PlacementError(f"the cluster has the jobs {spec.jobs}; name this server's with job_name=")
        self._job = spec.jobs[0] if job_name is None else job_name
        self._task = task_index or 0
        self._config = config or SessionConfig()
        self._bind = spec.task_address(self._job, self._task)
        self._bound = ""
        tasks = tuple((job, index, address) for job, index, address in spec.tasks())
        info = TaskInfo(secrets.token_hex(8), self._job, self._task, tasks)
        session_s = self._config.session_s
        resources = Resources(np.random.default_rng, session_s=session_s, bytes_required=True, on_lost=_log_loss)
        lost_s = self._config.lost_s
        self._broker = Broker(resources, info, lost_s, session_s, _make_page, self._allocate, self._memory_bytes)
        self._service = StepService(
            info, self._config, self._credentials, OpLibrary(ops), self._broker, resources, self._send
        )
        self._connections: dict[PeerId, Connection] = {}
        self._peers = itertools.count(1)
        self._listeners: list[Listener] = []
        self._pid = os.getpid()
        self._background = Background(self._failed)
        self._timer = Timer(self._next_deadline, self._expire)
        self._local = f"inproc://aioflow-{info.epoch}"
        self._stopped = anyio.Event()
        self._error: BaseException | None = None
        self._clock = now

    @property
    def address(self) -> str:
        """The address as bound; a port of 0 is replaced by the one chosen."""
        return self._bound or self._bind

    @property
    def local_address(self) -> str:
        """The address for sessions in the same event loop, without a socket."""
        return self._local

    async def start(self) -> Self:
        """Bind the address and serve.

        Raises:
            AddressInUse: Another server listens there; it is not disturbed.
            ConnectFailed: The address can never work, or is beyond this host and there are no keys.
            AuthenticationFailed: A file of the keys is refused.
            SessionError: The server was started before.
        """
        if self._listeners or self._stopped.is_set():
            raise SessionError("this server was started before; make a new one")
        self._clock = event_loop_clock()
        group = await self._background.start()
        try:
            await self._listen(group)
        except BaseException:
            await self.close()
            raise
        group.start_soon(self._timer.run)
        return self

    async def _listen(self, group: TaskGroup) -> None:
        """Bind what is beside the address, then the address: whoever finds that finds the other too."""
        taken: AddressInUse | None = None
        try:
            nearby = await listen_nearby(self._bind, self._credentials, self._accept, group)
        except AddressInUse as error:  # most likely by a server at the address, and that is what to say then
            taken, nearby = error, None
        if nearby is not None:
            self._listeners.append(nearby)
        for address in dict.fromkeys((self._bind, self._local)):
            listener = await find_transport(address, self._credentials).listen(address, self._accept, group)
            self._listeners.append(listener)
            self._bound = self._bound or listener.address
        if taken is not None:
            raise taken

    async def close(self) -> None:
        """Stop: tell every client, send what is under way within a bound, leave no file or thread.

        In a child that was forked from the server's process it does nothing: there the server does not run.
        """
        if os.getpid() != self._pid:
            return
        self._broker.shut_down(f"the server at {self.address} was shut down")
        self._send()
        await finish(self._stop)

    async def _stop(self) -> None:
        async with anyio.create_task_group() as group:  # at once: each has bounds of its own
            group.start_soon(self._service.close)
            for listener in self._listeners:
                group.start_soon(listener.aclose)
        await self._background.stop()
        self._stopped.set()

    async def join(self) -> None:
        """Wait until the server is stopped.

        Raises:
            BaseException: What broke it, if something did.
        """
        await self._stopped.wait()
        if self._error is not None:
            raise self._error

    async def __aenter__(self) -> Self:
        """Start the server."""
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.close()

    def _accept(self, connection: Connection) -> _Receiver:
        peer = next(self._peers)
        self._connections[peer] = connection
        self._broker.accept(peer, is_local=connection.is_local)
        return _Receiver(self, peer)

    def received(self, peer: PeerId, frames: Sequence[AnyFrame]) -> None:
        """Handle one message of a peer."""
        time = self._clock()
        try:
            message, rest = decode(frames)
        except RemoteProtocolError as error:
            logger.warning("%s sent what is no message: %s", self._connections[peer].peer, error)
            self._broker.refuse(peer, str(error))
        except Exception as error:  # a fault of ours: it may end this session, never the server
            logger.exception("a message of %s could not be read", self._connections[peer].peer)
            self._broker.refuse(peer, f"the server could not read a message: {error!r}")
        else:
            self._broker.receive(peer, message, rest, time)
        self._send()

    def _allocate(self, peer: PeerId | None, nbytes: int) -> memoryview | None:
        connection = self._connections.get(peer) if peer is not None else None
        return None if connection is None else connection.allocate(nbytes)

    def _memory_bytes(self) -> int:
        return sum(listener.memory_bytes for listener in self._listeners)

    def lost(self, peer: PeerId) -> None:
        """Take out a peer that has gone."""
        self._connections.pop(peer, None)
        self._broker.lost(peer, self._clock())
        self._send()

    def _next_deadline(self) -> float | None:
        due = (self._broker.next_deadline(), self._service.next_deadline())
        return min((when for when in due if when is not None), default=None)

    def _expire(self, now: float) -> None:
        self._broker.expire(now)
        self._service.expire(now)
        self._send()

    def _send(self) -> None:
        self._service.perform(self._background.group)
        for peer, frames in self._broker.take_messages():
            connection = self._connections.get(peer)
            if connection is not None:
                try:
                    connection.send(frames)
                except LocalProtocolError:  # a fault of ours: it may end this connection, never the server
                    logger.exception("a message to %s could not be sent; it is disconnected", connection.peer)
                    connection.abort()
                    self._connections.pop(peer, None)
                    self._broker.lost(peer, self._clock())
        for peer in self._broker.take_dropped():
            connection = self._connections.pop(peer, None)
            if connection is not None:
                connection.abort()
        if self._broker.take_deadline_moved():
            self._timer.changed()

    def _failed(self, error: BaseException) -> None:
        logger.error("the server failed", exc_info=error)
        self._error = error
        self._stopped.set()


def _log_loss(queue: str, lost: LostProducer) -> None:
    logger.warning("%s lost producer %r: %s", queue, lost.name, " ".join(lost.reason.split()))


def _make_page(session: str) -> ReceiptsPage | None:
    try:
        return ReceiptsPage(session)
    except OSError as error:  # at the limit of descriptors
        logger.warning("a session goes without receipts, acknowledging each get by a message: %s", error)
        return None


class _Receiver:
    """Ties the messages of one connection to its number."""

    takes_pieces = True

    def __init__(self, server: Server, peer: PeerId) -> None:
        self._server = server
        self._peer = peer

    def received(self, frames: Sequence[AnyFrame]) -> None:
        self._server.received(self._peer, frames)

    def lost(self, error: TransportError) -> None:  # noqa: ARG002 - the broker has its own words
        self._server.lost(self._peer)
