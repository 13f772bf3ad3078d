"""Run a cluster and its programs on Ray, where one machine is not enough: `launch`, as `aioflow.launch` is.

Ray starts the processes, restarts them, and says where; tensors go over aioflow's own transports, never through Ray.
`_ray_plan` says what is run, and `_ray_actors` is what runs in Ray's workers.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

# Read when Ray is imported: it would take similar lines of several programs for one, and colour files.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_COLOR_PREFIX", str(int(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))))

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.util import placement_group, placement_group_table, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError as error:
    raise ImportError("aioflow.contrib.ray needs Ray: pip install 'aioflow-mq[ray]'") from error

from aioflow.cluster import ClusterSpec, GiveUp, History, ProcessInfo, after_exit
from aioflow.contrib._ray_actors import ProgramActor, TaskActor
from aioflow.contrib._ray_plan import CPU_SHARE, check_nodes, make_plan
from aioflow.errors import AddressInUse, PlacementError, ProcessFailed, SessionError, SpecMismatch
from aioflow.runtime import Background, SessionConfig, finish, now, on_asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from aioflow.contrib._ray_plan import Part, Plan

__all__ = ["Running", "launch"]

logger = logging.getLogger("aioflow.ray")

# Of the actors; a driver may have any, and finds them by this one.
NAMESPACE = "aioflow"

# After how long without room for the cluster it is said what is missing.
ROOM_S = 10.0

# How long programs and servers have to end when they are told to; and Ray to say that an actor is gone.
STOP_S = {False: 3.0, True: 2.0}
GONE_S = 2.0

# How a process of an actor has ended, of which Ray says no more than that it has.
KILLED = -9

# What Ray warns of, and is meant: the group is removed to end its actors; and signals are the driver's own business.
MEANT = ("Scheduling a restartable detached actor with a placement group", "SIGTERM handler is not set")


def launch(
    cluster: ClusterSpec | Mapping[str, Sequence[str] | Mapping[int, str]],
    programs: Mapping[str, Any] | None = None,
    *,
    name: str = "aioflow",
    config: SessionConfig | None = None,
    ops: Iterable[str] = (),
    gpus: Mapping[str, float] | None = None,
    strategy: str = "PACK",
    take_over: bool = False,
) -> AbstractAsyncContextManager[Running]:
    """Run a cluster on Ray: an actor for each task, and programs beside them, within an `async with` on asyncio.

    Entering connects to Ray as `ray.init()` does, where the process is not connected yet; waits until Ray has room, and
    until every server is ready; and starts the programs. A server runs in the process of a named, detached actor. When
    that process ends, Ray starts it again, at the same address. A program is a process beside its target, started again
    as `aioflow.launch` does. Leaving, also by an exception or a cancel, ends all of them within 10 s.

    If this process is killed, its programs end, and the servers go on with what they hold; `take_over` reaches them.

    Args:
        cluster: All of its tasks. A task whose address is an IP address of a machine runs on that machine; where one
            is `ipc://` or of the loopback interface, all tasks have to be on one machine.
        programs: As for `aioflow.launch`. The command `python` is the interpreter of Ray's workers.
        name: Of the cluster on this Ray. The actors are called `NAME/job:ps/task:0`, in the namespace `aioflow`.
        config: Settings of the servers; the defaults where None.
        ops: Modules with ops that graphs may name on the servers; Ray's workers have to find them.
        gpus: For tasks (`"/job:worker/task:0"`) and programs (`"trainer"`, for each copy) how many GPUs they see,
            which Ray chooses: a whole number, or a share below 1. One that is not named sees none.
        strategy: How Ray places the tasks: `PACK`, `SPREAD`, `STRICT_PACK` or `STRICT_SPREAD`.
        take_over: Go on with the servers of this name that are there, started by a driver that is gone, and start those
            that are not.

    Returns:
        A context manager that gives a `Running`.

    Raises:
        PlacementError: As for `aioflow.launch`; `gpus` is malformed; Ray has spread tasks that must be on one machine;
            or what is to be taken over was launched with another cluster, config, ops, or GPUs.
        ConnectFailed: An address is none, or reaches no other process.
        SpecMismatch: `ops` is no list of modules.
        AddressInUse: A cluster of this name is there, and `take_over` is false.
        SessionError: The event loop is not asyncio's.
        ProcessFailed: In the block, which is cancelled, and at its end: as for `aioflow.launch`; or Ray gave an actor
            up. All have been ended.
    """
    spec = ClusterSpec(cluster)
    if isinstance(ops, str):
        raise SpecMismatch(f"ops is {ops!r}; expected a list of modules, [{ops!r}]")
    plan = make_plan(spec, programs or {}, config or SessionConfig(), ops, gpus or {})
    return _run(_Cluster(spec, plan, name, strategy, take_over=take_over))


@asynccontextmanager
async def _run(cluster: _Cluster) -> AsyncGenerator[Running]:
    if not on_asyncio():
        raise SessionError("aioflow.contrib.ray works on asyncio, as Ray does; run it with asyncio.run")
    is_ours = not ray.is_initialized()
    for warns in ("ray.actor", "ray._private.worker"):
        logging.getLogger(warns).addFilter(_is_news)
    if is_ours:
        await anyio.to_thread.run_sync(_connect)
    try:
        with cluster.scope:
            await cluster.start()
            yield Running(cluster)
    finally:
        await finish(cluster.stop)
        if is_ours:
            await finish(_disconnect)
    if cluster.error is not None:
        raise cluster.error


def _connect() -> None:
    ray.init(namespace=NAMESPACE, include_dashboard=False)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(MEANT)


async def _disconnect() -> None:
    # As at the end of a process: not before the last lines of the actors have come.
    await anyio.to_thread.run_sync(partial(ray.shutdown, _exiting_interpreter=True))


class Running:
    """A cluster that runs on Ray; what the block of `launch` gets."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster

    async def processes(self) -> dict[str, ProcessInfo]:
        """Return the servers and programs by their names, as they are now; waits for those that are being restarted."""
        return {actor.name: await actor.info() for actor in self._cluster.actors}

    async def join(self) -> None:
        """Wait until every program is done: it has ended with exit code 0. Without programs that is never."""
        programs = [actor for actor in self._cluster.actors if not actor.is_server]
        for actor in programs:
            await actor.ended.wait()
        if not programs:
            await anyio.sleep_forever()


class _Actor:
    """An actor that Ray restarts, as its driver sees it."""

    def __init__(self, part: Part, handle: Any) -> None:
        self.name = part.start.name
        self.is_server = part.start.is_server
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self._handle = handle
        self._address = part.start.address
        self._actor_pid: int | None = None
        self._actor_restarts = 0
        self._restarts = 0

    async def info(self) -> ProcessInfo:
        """Return how it is now; waits while Ray restarts it."""
        pid = None
        if not self.ended.is_set():
            with suppress(RayError):  # it has ended meanwhile
                pid = await self._look()
        return ProcessInfo(self.name, pid, self._address, self._restarts)

    async def run(self) -> None:
        """Wait until it is done; Ray restarts it.

        Raises:
            ProcessFailed: It makes no sense to go on.
        """
        history = History(now())
        while await self._is_cut_short():
            decision = after_exit(history, KILLED, now(), is_server=self.is_server)
            if isinstance(decision, GiveUp):
                raise ProcessFailed(f"{self.name}: {decision.reason}", name=self.name)
            logger.warning("%s: its process has ended; Ray starts it again", self.name)
            history = History(now(), quick=decision.history.quick)  # type: ignore[union-attr]
        with suppress(RayError):
            await self._look()
        self.ended.set()
        ray.kill(self._handle)

    async def stop(self) -> None:
        """Have it end in order, and at once if that takes too long; return when it has ended."""
        with anyio.move_on_after(STOP_S[self.is_server]), suppress(RayError):
            await self._call("stop", retries=0)
        ray.kill(self._handle)
        with anyio.move_on_after(GONE_S), suppress(RayError):
            await self._call("run", retries=0)
        self.ended.set()

    async def _is_cut_short(self) -> bool:
        """Run it; return whether its process has ended before it was done.

        Raises:
            ProcessFailed: It cannot be started, has ended again and again, or Ray does not restart it.
        """
        try:
            await self._look()
        except RayTaskError as error:
            raise ProcessFailed(f"{self.name}: cannot be started: {error.cause}", name=self.name) from error
        except RayError as error:
            raise ProcessFailed(f"{self.name}: Ray does not run it: {error}", name=self.name) from error
        self.ready.set()
        try:
            failed = await self._call("run", retries=0)
        except RayActorError:
            return True
        if failed is not None:
            raise ProcessFailed(failed[0], name=self.name, code=failed[1])
        return False

    async def _look(self) -> int | None:
        """Ask it for its process, waiting while Ray restarts it; return its number.

        Raises:
            RayError: It cannot be started, or has ended for good.
        """
        actor_pid, pid, restarts = await self._call("process", retries=-1)
        self._actor_restarts += self._actor_pid not in {None, actor_pid}
        self._actor_pid = actor_pid
        self._restarts = self._actor_restarts + restarts
        found: int | None = pid
        return found

    async def _call(self, method: str, *, retries: int) -> Any:
        return await getattr(self._handle, method).options(max_task_retries=retries).remote()


class _Cluster:
    """What `launch` has on Ray: the actors and their placement group, or as much of them as there is."""

    def __init__(self, spec: ClusterSpec, plan: Plan, name: str, strategy: str, *, take_over: bool) -> None:
        self.actors: list[_Actor] = []
        self.error: BaseException | None = None
        self.scope = anyio.CancelScope()
        self._spec = spec
        self._plan = plan
        self._name = name
        self._strategy = strategy
        self._takes_over = take_over
        self._group: Any = None
        self._background = Background(self._failed)

    async def start(self) -> None:
        """Start the servers, or find them; wait until they are ready; and start the programs.

        Raises:
            AddressInUse: They are there, and not to be taken over.
            PlacementError: They were launched otherwise, or are where they cannot reach each other.
        """
        servers = [part for part in self._plan.parts if part.start.is_server]
        found = {part.start.name: handle for part in servers if (handle := self._find(part)) is not None}
        if found and not self._takes_over:
            raise self._taken()
        if found:
            await self._take_over(found)
        else:
            await self._reserve()
        await self._background.start()
        for part in servers:
            self._add(part, found.get(part.start.name) or self._make_server(part))
        for actor in self.actors:
            await actor.ready.wait()
        for part in self._plan.parts:
            if not part.start.is_server:
                self._add(part, self._make(ProgramActor, part, {}, part.start))

    async def stop(self) -> None:
        """End all that runs: programs first, so that they can still leave their sessions."""
        await self._background.stop()
        for is_server in (False, True):
            async with anyio.create_task_group() as group:
                for actor in self.actors:
                    if actor.is_server is is_server and not actor.ended.is_set():
                        group.start_soon(actor.stop)
        if self._group is not None:
            remove_placement_group(self._group)

    async def _take_over(self, found: Mapping[str, Any]) -> None:
        for name, handle in found.items():
            launched, group = await handle.launched.remote()
            if launched != self._plan.launched:
                raise PlacementError(
                    f"{name} of {self._name!r} was launched with another cluster, config, ops or gpus: {launched}; "
                    "take it over with the same, and leave the block to end it"
                )
            self._group = group

    async def _reserve(self) -> None:
        """Wait until Ray has room for all."""
        self._group = placement_group(list(self._plan.bundles), strategy=self._strategy, lifetime="detached")
        ready = self._group.ready()
        with anyio.move_on_after(ROOM_S) as bound:
            await ready
        if bound.cancelled_caught:
            logger.warning(
                "Ray has no room for %s after %g s: it wants %s (%s), and has %s",
                self._name,
                ROOM_S,
                self._plan.bundles,
                self._strategy,
                ray.available_resources(),
            )
            await self._group.ready()
        check_nodes(self._spec, placement_group_table(self._group)["bundles_to_node_id"].values())

    def _find(self, part: Part) -> Any:
        try:
            return ray.get_actor(self._actor_name(part), namespace=NAMESPACE)
        except ValueError:
            return None

    def _make_server(self, part: Part) -> Any:
        named = {"name": self._actor_name(part), "namespace": NAMESPACE, "lifetime": "detached"}
        plan = self._plan
        arguments = (part.start.name, part.job, part.task, plan.cluster, plan.ops, plan.launched)
        try:
            return self._make(TaskActor, part, named, *arguments)
        except ValueError as error:  # another driver was faster
            raise self._taken() from error

    def _make(self, kind: type[Any], part: Part, options: Mapping[str, str], *arguments: Any) -> Any:
        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=part.bundle)
        remote: Any = ray.remote(kind)
        return remote.options(
            num_cpus=CPU_SHARE, num_gpus=part.gpus, max_restarts=-1, scheduling_strategy=place, **options
        ).remote(*arguments)

    def _add(self, part: Part, handle: Any) -> None:
        actor = _Actor(part, handle)
        self.actors.append(actor)
        self._background.group.start_soon(self._run, actor)

    async def _run(self, actor: _Actor) -> None:
        try:
            await actor.run()
        except ProcessFailed as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.error = self.error or error
        self.scope.cancel()

    def _actor_name(self, part: Part) -> str:
        return f"{self._name}{part.start.name}"

    def _taken(self) -> AddressInUse:
        return AddressInUse(
            f"a cluster named {self._name!r} is on this Ray; it runs, or a driver has left it that was killed: then "
            "launch with take_over=True goes on with it; else choose another name="
        )
