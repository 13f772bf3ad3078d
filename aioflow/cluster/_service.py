"""What a server does for graphs: the shell around `_steps` that has its master and its worker run what is asked."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from aioflow.cluster import _messages as m
from aioflow.cluster._answers import pack_error
from aioflow.cluster._master import Master
from aioflow.cluster._neighbours import Neighbours
from aioflow.cluster._steps import (
    Begun,
    DevicesAsked,
    GraphDropped,
    OwnerEnded,
    ResetAsked,
    StepAborted,
    StepAsked,
    TensorCame,
)
from aioflow.cluster._values import encode_value
from aioflow.cluster._worker import Worker
from aioflow.errors import NodeFailed
from aioflow.graph import Task
from aioflow.runtime import Crew, begin_turn, complete_put, now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyio import CancelScope
    from anyio.abc import TaskGroup

    from aioflow.cluster._broker import Broker
    from aioflow.cluster._library import OpLibrary
    from aioflow.cluster._spec import TaskInfo
    from aioflow.resources import Resources
    from aioflow.runtime import SessionConfig
    from aioflow.transport import Frame

__all__ = ["StepService"]


class StepService:
    """The master and the worker of one server.

    Args:
        info: Which task it is of which cluster.
        config: The server's settings.
        credentials: With which keys to connect to the other tasks; None for none.
        library: The ops that it may run.
        broker: Whose requests are served.
        resources: Those of the broker.
        send: Sends what the broker has to say.
    """

    def __init__(
        self,
        info: TaskInfo,
        config: SessionConfig,
        credentials: Path | None,
        library: OpLibrary,
        broker: Broker,
        resources: Resources,
        send: Callable[[], None],
    ) -> None:
        here = self._here = Task(info.job, info.task)
        addresses = {Task(job, index): address for job, index, address in info.tasks}
        self._broker = broker
        self._send = send
        self._tasks = [task for task in addresses if task != here]
        self._neighbours = Neighbours(addresses, config, credentials)
        self._worker = Worker(
            here, len(addresses), config, library, resources, _Dispatch(broker, send), self._neighbours.deliver
        )
        self._master = Master(here, list(addresses), self._worker, self._neighbours, info.epoch)
        self._crew = Crew()
        self._running: dict[Begun, _Running] = {}
        self._ending: dict[str, bool] = {}  # owners that are over, when their last step is; and whether it was here

    def perform(self, group: TaskGroup) -> None:
        """Do what requests have asked for; what takes time runs in a task."""
        for effect in self._broker.steps.take_effects():
            match effect:
                case StepAborted(session, request):
                    running = self._running.get(Begun(session, request))
                    if running is not None:
                        running.scope.cancel()
                case TensorCame(step, key, frames):
                    self._worker.rendezvous.give(step, key, frames, now())
                    self._broker.deadline_moved()
                case GraphDropped(registered):
                    self._master.forget(registered.graph)
                    self._worker.forget(registered.graph)
                case OwnerEnded(owner, is_here):
                    self._end_owner(owner, is_here=is_here)
                case _:
                    begun = Begun(effect.session, effect.id)
                    owner = effect.registered.owner if isinstance(effect, StepAsked) else ""
                    self._running[begun] = _Running(anyio.CancelScope(), owner)
                    self._crew.start_soon(group, partial(self._answer, group.cancel_scope, begun, effect))

    def expire(self, now: float) -> None:
        """Do what is due by `now`."""
        self._worker.rendezvous.expire(now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        return self._worker.rendezvous.next_deadline()

    async def close(self) -> None:
        """End what runs, and disconnect from the other tasks; bounded."""
        for running in list(self._running.values()):
            running.scope.cancel()
        await self._worker.close()
        await self._neighbours.close()

    def _end_owner(self, owner: str, *, is_here: bool) -> None:
        """Cancel the steps of a session that is over, and forget it when they have ended."""
        steps = [running for running in self._running.values() if running.owner == owner]
        if steps:
            self._ending[owner] = is_here
            for running in steps:
                running.scope.cancel()
            return
        self._ending.pop(owner, None)
        self._worker.end_owner(owner)
        if is_here:
            self._master.end_owner(owner)
        self._broker.detach_owner(owner)

    async def _answer(self, stop: CancelScope, begun: Begun, asked: StepAsked | DevicesAsked | ResetAsked) -> None:
        """Run what was asked for, and answer it; what was withdrawn is answered when it has ended."""
        message: m.Tensors | m.Done | m.Error | m.Withdrawn = m.Withdrawn(begun.id, 0)
        frames: Sequence[Frame] = ()
        running = self._running[begun]
        begin_turn()
        try:
            with running.scope:
                frames = await self._run(asked)
                message = m.Done(begun.id) if isinstance(asked, ResetAsked) else m.Tensors(begun.id)
        except Exception as error:  # noqa: BLE001 - it is the answer of this request
            message, frames = pack_error(begun.id, error), ()
        except asyncio.CancelledError as error:
            if stop.cancel_called:
                raise
            message, frames = pack_error(begun.id, self._cancelled(error)), ()
        finally:
            del self._running[begun]
            if running.owner in self._ending:
                self._end_owner(running.owner, is_here=self._ending[running.owner])
        self._broker.steps.ended(begun, message, frames)
        self._send()

    def _cancelled(self, error: asyncio.CancelledError) -> NodeFailed:
        """Return the failure of a step whose task was cancelled by a kernel: it would end this server."""
        failed = NodeFailed(
            f"a node on {self._here}, failed: it cancelled the task that it ran in", device=str(self._here)
        )
        failed.__cause__ = error
        return failed

    async def _run(self, asked: StepAsked | DevicesAsked | ResetAsked) -> Sequence[Frame]:
        match asked:
            case StepAsked(registered=registered, step=step, fetched=fetched, fed=fed, given=given):
                if registered.is_part:
                    values = await self._worker.run(registered.owner, registered.graph, fetched, fed, step, given)
                else:
                    values = await self._master.run(registered, fetched, fed)
                return encode_value(values)
            case DevicesAsked(whole=True):
                return encode_value(await self._master.devices())
            case DevicesAsked():
                return encode_value(await self._worker.devices())
            case ResetAsked(session=session, containers=containers):
                await self._reset(session, containers)
                return ()

    async def _reset(self, session: str, containers: Sequence[str]) -> None:
        """Empty containers of all tasks, and end the sessions of this master but the one that asks."""
        for task in self._tasks:
            host = await self._neighbours.reach(task)
            await complete_put(host.reset(containers))
        self._broker.reset(containers)
        self._broker.end_targeted(session, f"containers {sorted(containers)} of its server were reset; open a new one")


class _Running(NamedTuple):
    """A request that runs: what ends it, and on whose behalf it runs."""

    scope: anyio.CancelScope
    owner: str


class _Dispatch:
    """Performs the effects of queues for the nodes of graphs, and sends what they mean for others."""

    def __init__(self, broker: Broker, send: Callable[[], None]) -> None:
        self._send = send
        self.watch = broker.watch
        self.forget = broker.forget
        self._broker = broker

    def perform(self, queue: Any) -> None:
        """Tell of the effects that a queue has now."""
        self._broker.perform(queue)
        self._send()

    def deadline_moved(self) -> None:
        """Learn that something may be due earlier."""
        self._broker.deadline_moved()
        self._send()
