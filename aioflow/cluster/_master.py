"""The master of a server: places the steps of its sessions over all tasks, and has each run its part.

A step is cut once for the same fetches and feeds; each task is sent its part once, and then runs it by number. Values
go from task to task without passing here. The first part that fails ends the others.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio

from aioflow.cluster._graph_codec import encode_graph
from aioflow.cluster._parts_elsewhere import PartsElsewhere
from aioflow.cluster._remote_steps import begin_graph, list_devices, register
from aioflow.cluster._transfer import RECEIVE, SEND
from aioflow.errors import ConnectFailed, ConnectionLost, PlacementError
from aioflow.graph import Output, Task, is_folded, partition, place, placement_table, prune
from aioflow.names import DeviceName
from aioflow.runtime import no_task_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioflow.cluster._neighbours import Neighbours
    from aioflow.cluster._steps import RegisteredGraph
    from aioflow.cluster._worker import Worker
    from aioflow.graph import Graph, Node, Part

__all__ = ["Master"]

# Plans that are kept of one graph for steps with the same fetches and feeds: a training loop has a handful.
PLANS_MAX = 64


@dataclass(slots=True)
class _Part:
    """A part, how many values it sends, and under which number its task has it, in which life of its session."""

    part: Part
    fetched: list[Output | Node]
    sends: int
    number: int = 0
    life: str = ""

    @property
    def graph(self) -> Graph:
        """Its nodes."""
        return self.part.graph

    def feeds(self, fed: Mapping[Output, Any]) -> dict[Output, Any]:
        """Return what its placeholders are fed with."""
        return {placeholder: fed[output] for output, placeholder in self.part.fed.items()}


@dataclass(slots=True)
class _Graph:
    """What the master keeps of a graph: where nodes were placed, and its plans."""

    placed: dict[int, int] = field(default_factory=dict)
    plans: dict[Any, list[_Part]] = field(default_factory=dict)


class Master:
    """Runs the steps of the sessions that were opened on this server.

    Args:
        task: Which task this is.
        tasks: All of the cluster.
        worker: That of this task.
        neighbours: The other tasks.
        epoch: Of the server: steps are named by it.
    """

    def __init__(self, task: Task, tasks: Sequence[Task], worker: Worker, neighbours: Neighbours, epoch: str) -> None:
        self._task = task
        self._tasks = tasks
        self._worker = worker
        self._neighbours = neighbours
        self._epoch = epoch
        self._steps = itertools.count(1)
        self._numbers = itertools.count(1)
        self._graphs: WeakKeyDictionary[Graph, _Graph] = WeakKeyDictionary()
        self._told: dict[str, set[Task]] = {}  # by owner, who has parts of its graphs
        self._devices: dict[Task, list[DeviceName]] = {}

    async def devices(self) -> list[list[Any]]:
        """Return what is told of the devices of all tasks, this one's first.

        Raises:
            ConnectFailed: Tasks are missing; names them.
        """
        found: dict[Task, list[Any]] = {}
        absent: list[str] = []

        async def ask(task: Task) -> None:
            try:
                host = await self._neighbours.reach(task)
                found[task] = await list_devices(host, whole=False)
            except (ConnectFailed, ConnectionLost) as error:
                absent.append(str(error))

        found[self._task] = await self._worker.devices()
        async with anyio.create_task_group() as group:
            for task in self._tasks:
                if task != self._task:
                    group.start_soon(ask, task)
        if absent:
            raise ConnectFailed(
                f"{len(absent)} of {len(self._tasks)} tasks of the cluster are missing: {'; '.join(sorted(absent))}"
            )
        ordered = [self._task, *(task for task in self._tasks if task != self._task)]
        self._devices = {task: [DeviceName.parse(device[0]) for device in found[task]] for task in ordered}
        return [device for task in ordered for device in found[task]]

    async def run(
        self, registered: RegisteredGraph, fetched: Sequence[Output | Node], fed: Mapping[Output, Any]
    ) -> list[Any]:
        """Run a step; returns the values of the fetches, None for nodes that have none.

        Raises:
            GraphError: A placeholder is not fed; nothing has run.
            PlacementError: A node has no device; nothing has run.
            ConnectFailed: A task of the cluster is missing; nothing has run.
            ConnectionLost: A task was lost while it ran its part; the others were ended.
            AioflowError: What a node raised.
        """
        if not self._devices:
            await self.devices()
        parts = self._plan(registered, fetched, fed)
        step = f"{self._epoch}:{next(self._steps)}"
        values: list[Any] = [_known(given, fed) for given in fetched]
        owner = registered.owner
        own = [part for part in parts if part.part.task == self._task]
        others = [part for part in parts if part.part.task != self._task]
        elsewhere = PartsElsewhere(self._neighbours.deliver, sum(part.sends for part in own))
        deliver = elsewhere.deliver
        try:
            with elsewhere.scope:
                for part in others:
                    await self._add(owner, part, fed, step, elsewhere)
                found = {}
                for part in own:
                    run = self._worker.run(owner, part.graph, part.fetched, part.feeds(fed), step, deliver=deliver)
                    found[self._task] = await elsewhere.run_beside(run)
                elsewhere.begin()
                for part in others:
                    found[part.part.task] = await elsewhere.wait(part.part.task)
                for part in parts:
                    for (place_, _), value in zip(part.part.fetched, found[part.part.task], strict=False):
                        values[place_] = value  # the last one of a part has none
        finally:
            await elsewhere.end()
        if elsewhere.error is not None:
            raise elsewhere.error
        return values

    def forget(self, graph: Graph) -> None:
        """Keep nothing of a graph, here and elsewhere."""
        kept = self._graphs.pop(graph, None)
        if kept is not None:
            for parts in kept.plans.values():
                self._drop(parts)

    def end_owner(self, owner: str) -> None:
        """Tell the tasks that have parts of a session's graphs that it is over."""
        self._neighbours.end_owner(owner, sorted(self._told.pop(owner, ())))

    # Plans

    def _plan(
        self, registered: RegisteredGraph, fetched: Sequence[Output | Node], fed: Mapping[Output, Any]
    ) -> list[_Part]:
        kept = self._graphs.get(registered.graph)
        if kept is None:
            kept = self._graphs[registered.graph] = _Graph()
        key = (tuple(fetched), frozenset(fed))
        plan = kept.plans.get(key)
        if plan is None:
            nodes = prune(fetched, fed)
            placed = self._place(registered, nodes, kept)
            plan = [
                _Part(
                    part,
                    [*(output for _, output in part.fetched), *([part.last] if part.last.controls else ())],
                    sum(node.op is SEND for node in part.graph.nodes),
                )
                for part in partition(nodes, fetched, fed, placed, SEND, RECEIVE)
            ]
            while len(kept.plans) >= PLANS_MAX:
                self._drop(kept.plans.pop(next(iter(kept.plans))))
            kept.plans[key] = plan
        return plan

    def _place(self, registered: RegisteredGraph, nodes: Sequence[Node], kept: _Graph) -> dict[Node, DeviceName]:
        if len(self._tasks) > 1:
            for node in nodes:
                self._check_task(node)
        names = [name for devices in self._devices.values() for name in devices]
        home = DeviceName(self._task.job, self._task.task)
        placed = place(nodes, names, soft=registered.soft, placed=kept.placed, home=home)
        if registered.log:
            sys.stderr.write(placement_table([node for node in nodes if node.index not in kept.placed], placed, names))
        kept.placed.update((node.index, device) for node, device in placed.items())
        return {node: names[device] for node, device in placed.items()}

    def _check_task(self, node: Node) -> None:
        used = node.colocation
        if used is not None and (used.device.job is None or used.device.task is None):
            key: Any = used.key
            if not key.session:
                where = no_task_named(key.name, len(self._tasks), str(self._task))
                raise PlacementError(f"node {node.name!r}, made at {node.line}: {where}")

    def _drop(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            task = part.part.task
            if task == self._task:
                self._worker.forget(part.graph)
            else:
                self._neighbours.drop(task, part.life, part.number)

    async def _add(
        self, owner: str, part: _Part, fed: Mapping[Output, Any], step: str, elsewhere: PartsElsewhere
    ) -> None:
        """Have another task begin its part when the others do; it is sent that first, if it has not got it."""
        task = part.part.task
        host = await self._neighbours.reach(task)
        if part.life != host.life:
            frames = encode_graph(part.graph)
            part.number, part.life = next(self._numbers), host.life
            self._told.setdefault(owner, set()).add(task)
            register(host, part.number, frames, owner=owner)
        elsewhere.add(task, partial(begin_graph, host, part.number, part.fetched, part.feeds(fed), step))


def _known(given: Output | Node, fed: Mapping[Output, Any]) -> Any:
    """Return the value of a fetch that no node has to run for; None for the others, until they have run."""
    if not isinstance(given, Output):
        return None
    if given in fed:
        return fed[given]
    return given.node.arguments[0].value if is_folded(given.node) else None
