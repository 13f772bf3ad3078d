"""Sessions: where the resources behind definitions live, and which session is current."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any, Self

import anyio

from aioflow.client._values import convert_feed
from aioflow.cluster import ClusterHost, Server
from aioflow.devices import DeviceInfo
from aioflow.errors import GraphError, NoSession, SessionClosed, SessionError
from aioflow.graph import Graph
from aioflow.keys import name_credentials
from aioflow.names import normalise_address
from aioflow.runtime import (
    EmbeddedHost,
    Executor,
    SessionConfig,
    SessionDevices,
    begin_call,
    complete_put,
    current,
    finish,
    open_in_thread,
    read_request,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from aioflow.keys import KeyPath
    from aioflow.resources import ServerStats
    from aioflow.runtime import CurrentSession, Hosts

__all__ = ["Session", "current_session"]

TARGET_VARIABLE = "AIOFLOW_TARGET"

# A closing session waits this long for its writers to flush; a server that does not answer must not keep a process
# alive.
FLUSH_S = 1.0


class Session:
    """A client's view of the queues of a server, or of an embedded host of its own.

    `async with Session(...)`, or `await session.open()`, makes it current for this task and the tasks that it starts. A
    session belongs to the event loop that opened it; use from another loop, from another thread, or after a fork is
    refused with `SessionError`.
    """

    def __init__(
        self,
        target: str | Server | None = None,
        *,
        graph: Graph | None = None,
        config: SessionConfig | None = None,
        credentials: KeyPath | None = None,
    ) -> None:
        """Make a session; nothing is opened yet.

        Args:
            target: `ipc://path`, `shm://path`, `tcp://host:port` or `inproc://name` of a server, or a `Server` of this
                process. An empty one is an embedded host: queues in this process. None is what the environment variable
                AIOFLOW_TARGET names, else embedded.
            graph: What `run` takes its fetches from; None for any graph.
            config: Settings; the defaults where None.
            credentials: This client's key file, as `aioflow keys make` writes it, or a folder of keys, for its servers'
                own; None is what the environment variable AIOFLOW_KEYS names, else no key. Read at each connecting.

        Raises:
            GraphError: `graph` is none.
            SessionError: The target is neither an address nor a server, or `config` is none.
            ConnectFailed: The target is no address.
        """
        if graph is not None and not isinstance(graph, Graph):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise GraphError(f"graph= takes a flow.Graph, got {graph!r}")
        if config is not None and not isinstance(config, SessionConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise SessionError(f"config= takes a flow.SessionConfig, got {config!r}")
        if target is None:
            target = os.environ.get(TARGET_VARIABLE, "")
        if not isinstance(target, (str, Server)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise SessionError(f"a session's target is an address or a Server, got {target!r}")
        self._target = normalise_address(target) if isinstance(target, str) and target else target or None
        self._credentials = name_credentials(credentials)
        self._graph = graph
        self._config = config or SessionConfig()
        self._executor: Executor | None = None
        self._devices: SessionDevices | None = None
        self._opening = anyio.Lock()
        self._host: Hosts | None = None
        self._cluster: ClusterHost | None = None
        self._closed = False
        self._closing = anyio.Lock()
        self._previous: CurrentSession | None = None
        self._home: tuple[int, Any] = (0, None)
        self._flushes: dict[Callable[[], Awaitable[None]], None] = {}  # in order, so that a run can be repeated

    async def open(self) -> Self:
        """Open the session and make it current; waits up to `connect_s` for a server that is starting, or restarts.

        Returns:
            The session itself.

        Raises:
            ConnectFailed: No server answered in time.
            AuthenticationFailed: The server and this client do not know each other's keys, or the key file is refused.
            SessionError: The session is open, or was closed: make a new one.
        """
        if self._host is not None or self._closed:
            raise SessionError("this session was opened before; make a new one for each `async with`")
        host: Hosts
        if self._target is None:
            host = EmbeddedHost(self._config)
        else:
            address = self._target.local_address if isinstance(self._target, Server) else self._target
            host = self._cluster = ClusterHost(address, self._config, self._credentials)
        await host.open()
        self._home = (os.getpid(), _event_loop())
        self._host = host
        self._previous = current.get()
        current.set(self)
        return self

    async def close(self) -> None:
        """Flush the session's writers, end waiting operations with `SessionClosed`, and leave the server.

        What was not handed over goes back, registrations of producers count as lost, private queues go. A second close
        does nothing. Bounded: a server that does not answer cannot hold it.
        """
        if current.get() is self:
            previous = self._previous
            while isinstance(previous, Session) and previous._closed:  # noqa: SLF001 - sessions may close in any order
                previous = previous._previous  # noqa: SLF001
            current.set(previous)
        if self._host is None or self._closed:
            return
        self._check_home()
        await finish(self._close)

    async def _close(self) -> None:
        assert self._host is not None
        async with self._closing:
            if self._closed:
                return
            with anyio.move_on_after(FLUSH_S):
                for flush in list(self._flushes):
                    await flush()
            self._closed = True
            if self._executor is not None:
                await self._executor.close()
            if self._devices is not None:
                await self._devices.close()
            await self._host.close()

    async def __aenter__(self) -> Self:
        """Open the session."""
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        await self.close()

    async def run(self, fetches: Any, feed: Mapping[Any, Any] | None = None) -> Any:
        """Run what some nodes of a graph need, each node once, and return their values.

        On a server, that server is the step's master: it places the nodes over the devices of all tasks of its cluster,
        and has each task run its part. It runs only ops of modules that its start named (`ops=`); constants, feeds and
        fetches are numbers, strings, arrays, and lists, tuples and dicts of them.

        Several steps of a session may run at once. Nodes start when all that they depend on is done: coroutines on the
        event loop, plain functions on the threads of their device, GPU kernels on streams. While it runs, this session
        is current for the kernels. A cancelled step starts nothing more, cancels its coroutines, and waits for kernels
        that run on threads; what a dequeue node took goes back unless another node was started with it. Other effects
        (elements that were put, variables that were assigned) stay.

        Args:
            fetches: A node, an output, or any nesting of lists, tuples and dicts of them.
            feed: Values for placeholders, or in the place of other nodes' values.

        Returns:
            The values, in the nesting of the fetches; None for nodes that have none.

        Raises:
            GraphError: A fetch or a feed is no node of the graph, or a placeholder is not fed; nothing has run.
            PlacementError: A node has no device; nothing has run.
            SpecMismatch: A feed does not fit its placeholder, or a constant or feed cannot travel; nothing has run.
            UnknownOp: A server has not one of the ops; lists what it has.
            ConnectFailed: A task of the cluster is missing after `connect_s`; nothing has run.
            ConnectionLost: A server was out of reach for `lost_s`, or was started anew; part of the step may be done.
            NodeFailed: A kernel raised; names node, device and line, and has the exception as its cause.
            AioflowError: One of aioflow's own errors of an operation in a node, as it is, with a note of the node.
            SessionClosed: The session was closed while the step ran.
        """
        await begin_call()
        _ = self.host
        graph, fetched, fed, rebuild = read_request(fetches, feed, self._graph, convert_feed)
        if graph is None:
            return rebuild([])
        if self._cluster is not None:
            soft, log = self._config.allow_soft_placement, self._config.log_device_placement
            return rebuild(await self._cluster.run(graph, fetched, fed, soft=soft, log=log))
        executor = self._executor or await self._open_executor()
        token = current.set(self)
        try:
            return rebuild(await executor.run(graph, fetched, fed))
        finally:
            current.reset(token)

    @staticmethod
    async def reset(
        target: str | Server,
        containers: Sequence[str] | None = None,
        *,
        credentials: KeyPath | None = None,
    ) -> None:
        """Empty containers of all tasks of a cluster: variables go, queues are deleted (what waits gets `NotFound`).

        Other containers stay. Every session that was opened on that server ends, as in TensorFlow: its next call is
        `SessionClosed` and says why. Sessions on other servers go on, and find new variables and queues.

        Args:
            target: The server.
            containers: Their names; None or none of them is the default container alone (as in TensorFlow).
            credentials: As of a session.

        Raises:
            ConnectFailed: No server answered in time.
            AuthenticationFailed: As by `open`.
            SessionError: The target is neither an address nor a server: what an embedded session holds goes with it.
        """
        if not target or not isinstance(target, (str, Server)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers pass anything
            raise SessionError(f"reset needs the address of a server, or a Server; got {target!r}")
        if isinstance(containers, str):
            raise SessionError(f"containers is a list of names; got {containers!r}")
        async with Session(target, credentials=credentials) as session:
            assert session._cluster is not None
            await complete_put(session._cluster.master.reset(list(containers or [""]), whole=True))

    async def devices(self) -> tuple[DeviceInfo, ...]:
        """Return what devices there are: name, kind, memory limit in bytes, and the card's own name."""
        _ = self.host
        if self._cluster is not None:
            return tuple([DeviceInfo(*fields) for fields in await self._cluster.devices()])
        devices = self._devices or await self.open_devices()
        return tuple(device.info() for device in devices.devices)

    async def stats(self) -> tuple[ServerStats, ...]:
        """Return a snapshot of each task of the cluster: its queues, and the memory that it shares with its clients.

        A task that does not answer within `connect_s`, or that is out of reach since `lost_s`, is told of as missing.

        Raises:
            ConnectionLost: So is the server that the session was opened on.
        """
        await begin_call()
        return await self.host.server_stats()

    async def _open_executor(self) -> Executor:
        devices = self._devices or await self.open_devices()
        if self._executor is None:
            self._executor = Executor(devices, self._config)
        return self._executor

    async def open_devices(self) -> SessionDevices:
        """Open the devices of this process, for graphs and for copies of batches; they are closed with the session."""
        async with self._opening:
            _ = self.host
            if self._devices is None:
                devices = await open_in_thread("localhost", 0, self._config.gpu_options)
                if self._closed:
                    await devices.close()
                    _ = self.host
                self._devices = devices
            return self._devices

    @property
    def host(self) -> Hosts:
        """The host of an open session, checked for use from where it may be used.

        Raises:
            SessionClosed: The session was closed.
            SessionError: It is not open, or it is used from another event loop, thread or process.
        """
        if self._closed:
            raise SessionClosed("the session was closed; open a new one")
        if self._host is None:
            raise SessionError("the session is not open; use `async with session`, or `await session.open()`")
        self._check_home()
        return self._host

    def flush_at_close(self, flush: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have a writer flushed when the session closes; returns what takes it off again."""
        self._flushes[flush] = None
        return lambda: self._flushes.pop(flush, None)

    def _check_home(self) -> None:
        pid, loop = self._home
        if os.getpid() != pid:
            raise SessionError("the session was opened before a fork; open one of its own in the child process")
        if _event_loop() is not loop:
            raise SessionError("the session belongs to another event loop or thread; open one of its own in each")

    def __repr__(self) -> str:
        """Show the target and the state."""
        state = "closed" if self._closed else "open" if self._host is not None else "not open"
        return f"<Session {self._target or 'embedded'} {state}>"


def current_session() -> CurrentSession:
    """Return the session that is current in this task.

    Raises:
        NoSession: There is none.
    """
    session = current.get()
    if session is None:
        raise NoSession(
            "no session is current in this task: wrap the code in `async with flow.Session(...)`, "
            "or use `queue.on(session)` to bind a queue to one"
        )
    return session


def _event_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass  # it is trio's
    try:
        return sys.modules["trio"].lowlevel.current_trio_token()
    except (KeyError, RuntimeError):
        return None
