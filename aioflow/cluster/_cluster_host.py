"""The resources of a cluster as a session has them: on the server that it was opened on, and on those of other tasks.

For queues and variables a client connects directly to the task that owns them, under one session id; graphs go to the
master, which is the server that the session was opened on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import anyio

from aioflow.cluster._graph_codec import encode_graph
from aioflow.cluster._neighbours import missing
from aioflow.cluster._remote import RemoteHost
from aioflow.cluster._remote_steps import deregister, list_devices, list_queues, register, run_graph
from aioflow.errors import ConnectFailed, ConnectionLost, PlacementError
from aioflow.graph import Task
from aioflow.queues import QueueStats
from aioflow.resources import ServerStats
from aioflow.runtime import finish, no_task_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aioflow.graph import Graph, Node, Output
    from aioflow.names import DeviceName
    from aioflow.resources import QueueKey, VariableKey
    from aioflow.runtime import SessionConfig

__all__ = ["ClusterHost"]


@dataclass(slots=True)
class _Sent:
    """What the master has of a graph: as of which version, in which of its lives, under which number."""

    version: int
    epoch: str
    number: int


class ClusterHost:
    """The tasks of a cluster, through one session.

    Args:
        address: Of the server that the session is opened on.
        config: The session's settings.
        credentials: With which key to connect; None for none.

    Attributes:
        master: That server.
    """

    def __init__(self, address: str, config: SessionConfig, credentials: Path | None = None) -> None:
        self.master = RemoteHost(address, config, credentials)
        self._credentials = credentials
        self._config = config
        self._others: dict[Task, RemoteHost] = {}
        self._opening = anyio.Lock()
        self._is_closed = False
        self._graphs: dict[ref[Graph], _Sent] = {}
        self._unused: list[ref[Graph]] = []  # graphs that the program has dropped; another thread may add to it
        self._last_graph = 0

    async def open(self) -> None:
        """Connect to the master."""
        await self.master.open()

    async def close(self) -> None:
        """Leave every task; each within a bound."""
        self._is_closed = True
        await finish(self._close)

    async def _close(self) -> None:
        async with anyio.create_task_group() as group:
            for host in (self.master, *self._others.values()):
                group.start_soon(host.close)

    async def reach(self, device: DeviceName, key: QueueKey | VariableKey) -> RemoteHost:
        """Return the host of the task that a device names; connect to it first if need be.

        Raises:
            PlacementError: There is no such task, or what is shared in a cluster of several names none.
            ConnectFailed: The task did not answer within `connect_s`.
        """
        self.master.check()
        if device.job is None and device.task is None and len(self.master.welcome.tasks) == 1:  # as nearly always
            return self.master
        return await self._host_of(self._task_of(device, key))

    async def server_stats(self) -> tuple[ServerStats, ...]:
        """Return a snapshot of each task, in the order of the cluster, also of one that cannot be reached.

        Raises:
            ConnectionLost: The server that the session was opened on is out of reach since `lost_s`.
        """
        self.master.check()
        told: list[ServerStats] = []
        for job, index, _ in self.master.welcome.tasks:
            task = Task(job, index)
            try:
                memory_bytes, queues = await list_queues(await self._host_of(task))
            except (ConnectFailed, ConnectionLost) as error:
                if task == self._home:
                    raise
                told.append(ServerStats(str(task), 0, (), str(error)))
                continue
            told.append(ServerStats(str(task), memory_bytes, tuple([QueueStats(*fields) for fields in queues])))
        return tuple(told)

    async def _host_of(self, task: Task) -> RemoteHost:
        """Return the host of a task; connect to it first if need be."""
        if task == self._home:
            return self.master
        host = self._others.get(task)
        if host is None or host.has_ended:
            async with self._opening:
                host = self._others.get(task)
                if host is None or host.has_ended:
                    host = await self._open(task, host)
        return host

    # Graphs

    async def run(
        self, graph: Graph, fetched: Sequence[Output | Node], fed: Mapping[Output, Any], *, soft: bool, log: bool
    ) -> list[Any]:
        """Run a step of a graph; it is sent to the master once, and again where it has grown."""
        while self._unused:
            self._forget(self._unused.pop())
        epoch = self.master.welcome.epoch
        sent = self._graphs.get(ref(graph))
        if sent is None or (sent.version, sent.epoch) != (graph.version, epoch):
            frames = encode_graph(graph)
            self._forget(ref(graph))
            self._last_graph += 1
            sent = self._graphs[ref(graph, self._unused.append)] = _Sent(graph.version, epoch, self._last_graph)
            register(self.master, sent.number, frames, soft=soft, log=log)
        return await run_graph(self.master, sent.number, fetched, fed)

    def _forget(self, graph: ref[Graph]) -> None:
        """Let the master forget a graph, if it has it."""
        sent = self._graphs.pop(graph, None)
        if sent is not None and sent.epoch == self.master.welcome.epoch:
            deregister(self.master, sent.number)

    async def devices(self) -> list[Any]:
        """Return what is told of the devices of all tasks."""
        return await list_devices(self.master, whole=True)

    # Tasks

    @property
    def _home(self) -> Task:
        return Task(self.master.welcome.job, self.master.welcome.task)

    def _task_of(self, device: DeviceName, key: QueueKey | VariableKey) -> Task:
        tasks, home = self.master.welcome.tasks, self._home
        if len(tasks) > 1 and not key.session and (device.job is None or device.task is None):
            raise PlacementError(no_task_named(key.name, len(tasks), str(home)))
        allowed = [
            Task(job, index) for job, index, _ in tasks if device.job in {None, job} and device.task in {None, index}
        ]
        if not allowed:
            there_is = ", ".join(str(Task(job, index)) for job, index, _ in tasks)
            raise PlacementError(f"{key.name!r} is placed on {str(device)!r}, and the cluster has {there_is}")
        return home if home in allowed else min(allowed)

    async def _open(self, task: Task, ended: RemoteHost | None) -> RemoteHost:
        if ended is not None:
            await ended.close()
        [address] = [address for job, index, address in self.master.welcome.tasks if (job, index) == task]
        host = RemoteHost(address, self._config, self._credentials, self.master.secret, is_target=False)
        try:
            await host.open()
        except ConnectFailed as error:
            raise ConnectFailed(missing(task, address, self._config.connect_s)) from error
        if self._is_closed:
            await host.close()
        self._others[task] = host
        return host
