"""The worker of a server: runs nodes that were placed on its task, on behalf of sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.cluster._transfer import Rendezvous, Transfer, transfer
from aioflow.errors import NodeFailed, SessionClosed
from aioflow.runtime import Executor, LocalHost, SessionDevices, current, on_asyncio, open_in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aioflow.cluster._library import OpLibrary
    from aioflow.cluster._transfer import Deliver
    from aioflow.graph import Graph, Node, Output, Task
    from aioflow.resources import Resources
    from aioflow.runtime import Dispatch, SessionConfig
    from aioflow.transport import Frame

__all__ = ["Worker"]


class _OwnerSession:
    """What is current while nodes run on behalf of a session: it reaches the resources of this task."""

    def __init__(self, host: LocalHost, open_devices: Callable[[], Awaitable[SessionDevices]]) -> None:
        self.host = host
        self._open_devices = open_devices

    async def open_devices(self) -> SessionDevices:
        return await self._open_devices()

    def flush_at_close(self, flush: Callable[[], Awaitable[None]]) -> Callable[[], None]:  # noqa: ARG002 - the protocol's
        return lambda: None  # a kernel leaves its writers before it ends


def _is_from_outside(error: BaseException) -> bool:
    """Whether an error that a kernel met is not its own: a cancellation, or Ctrl-C, which trio raises in any task."""
    if isinstance(error, KeyboardInterrupt):
        return not on_asyncio()
    return isinstance(error, anyio.get_cancelled_exc_class())


class Worker:
    """Runs nodes.

    Args:
        task: Which task this is.
        tasks: How many the cluster has.
        config: The server's settings.
        library: The ops that it may run.
        resources: Those of the task.
        dispatch: Who performs their effects.
        deliver: Gives a value's frames to another task, for a step and a key.
    """

    def __init__(
        self,
        task: Task,
        tasks: int,
        config: SessionConfig,
        library: OpLibrary,
        resources: Resources,
        dispatch: Dispatch,
        deliver: Deliver,
    ) -> None:
        self.rendezvous = Rendezvous(config.session_s)
        self._task = task
        self._tasks = tasks
        self._config = replace(config, log_device_placement=False)
        self._library = library
        self._resources = resources
        self._dispatch = dispatch
        self._deliver = deliver
        self._owners: dict[str, _OwnerSession] = {}
        self._bound: set[Graph] = set()
        self._opening = anyio.Lock()
        self._devices: SessionDevices | None = None
        self._executor: Executor | None = None

    async def devices(self) -> list[list[Any]]:
        """Return the fields of `DeviceInfo` for each device of this task; opens them first."""
        infos = [device.info() for device in (await self._open_devices()).devices]
        return [[info.name, info.kind, info.memory_limit, info.description] for info in infos]

    async def run(
        self,
        owner: str,
        graph: Graph,
        fetched: Sequence[Output | Node],
        fed: Mapping[Output, Any],
        step: str,
        given: Mapping[str, Frame] | None = None,
        deliver: Deliver | None = None,
    ) -> list[Any]:
        """Run a part of a step, whose nodes are all on this task.

        Args:
            owner: On whose behalf.
            graph: The part.
            fetched: What is fetched.
            fed: What is fed.
            step: Its name.
            given: Values that came with the part, by key.
            deliver: Gives a value to another task, if not as usual.

        Raises:
            UnknownOp: This server has not one of its ops.
            NodeFailed: A kernel raised; `SystemExit` and the like, too, which do not end the server.
            AioflowError: What the step raised.
        """
        self.rendezvous.begin(step)
        try:
            for key, packed in (given or {}).items():
                self.rendezvous.give(step, key, [packed], 0.0)
            self._bind(graph)
            devices = self._devices or await self._open_devices()
            if self._executor is None:
                self._executor = Executor(devices, self._config)
            transferred = Transfer(step, self.rendezvous, deliver or self._deliver)
            tokens = current.set(self._session(owner)), transfer.set(transferred)
            try:
                return await self._executor.run(graph, fetched, fed)
            except BaseException as error:
                notes = getattr(error, "__notes__", ())
                if isinstance(error, Exception) or not notes or _is_from_outside(error):
                    raise
                where = notes[0].removeprefix("aioflow: in ")  # it would end this server, with what others have here
                failed = NodeFailed(f"{where}, failed: {type(error).__name__}: {error}", device=str(self._task))
                for note in notes:
                    failed.add_note(note)
                raise failed from error
            finally:
                current.reset(tokens[0])
                transfer.reset(tokens[1])
        finally:
            self.rendezvous.end(step)

    def forget(self, graph: Graph) -> None:
        """Keep nothing of a graph."""
        self._bound.discard(graph)
        if self._executor is not None:
            self._executor.forget(graph)

    def end_owner(self, owner: str) -> None:
        """End the calls of a session's nodes."""
        session = self._owners.pop(owner, None)
        if session is not None:
            session.host.fail_all(SessionClosed("the session was closed while this operation waited"))

    async def close(self) -> None:
        """End steps, threads and devices; bounded."""
        for owner in list(self._owners):
            self.end_owner(owner)
        if self._executor is not None:
            await self._executor.close()
        if self._devices is not None:
            await self._devices.close()

    def _bind(self, graph: Graph) -> None:
        """Put this server's ops where the graph names them."""
        if graph not in self._bound:
            ops = {node.op: self._library.find(node.op.path, node.op.num_outputs) for node in graph.nodes}
            for node in graph.nodes:
                node.op = ops[node.op]
            self._bound.add(graph)

    def _session(self, owner: str) -> _OwnerSession:
        session = self._owners.get(owner)
        if session is None:
            host = LocalHost(
                self._resources,
                self._dispatch,
                owner,
                jobs=(self._task.job,),
                task=self._task.task,
                tasks=self._tasks,
                lost_s=self._config.lost_s,
            )
            session = self._owners[owner] = _OwnerSession(host, self._open_devices)
        return session

    async def _open_devices(self) -> SessionDevices:
        async with self._opening:
            if self._devices is None:
                self._devices = await open_in_thread(*self._task, self._config.gpu_options)
            return self._devices
