"""Runs the steps of one session: plans them, once for the same fetches, and holds the threads that they share."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread

from aioflow.errors import SessionClosed
from aioflow.graph import Graph, LastRun, Node, Output, Plan, make_plan, place, placement_table, prune
from aioflow.runtime._pool import IntraOpLimit, ThreadPool
from aioflow.runtime._step import Step

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from aioflow.runtime._config import SessionConfig
    from aioflow.runtime._devices import SessionDevices

__all__ = ["Executor"]

# Plans that are kept for the next step of the same fetches: a training loop has a handful.
PLANS_MAX = 64

# How long a closing session waits for kernels that run.
CLOSE_S = 5.0

logger = logging.getLogger("aioflow.session")


class Executor:
    """The steps of one session.

    Args:
        devices: Where nodes may run; whoever gives them closes them.
        config: The session's settings.
    """

    def __init__(self, devices: SessionDevices, config: SessionConfig) -> None:
        self._devices = devices.devices
        self._config = config
        self._inbox = devices.inbox
        threads = config.inter_op_parallelism_threads
        self._limit = IntraOpLimit(config.intra_op_parallelism_threads)
        self._pools = [
            ThreadPool(f"aioflow {device.name}", threads, self._limit.apply)
            if device.kind == "CPU" and threads >= 0
            else None
            for device in self._devices
        ]
        self._plans: dict[Any, Plan] = {}
        self._placed: WeakKeyDictionary[Graph, dict[int, int]] = WeakKeyDictionary()
        self._names = [str(device.name) for device in self._devices]
        self._steps: set[Step] = set()
        self._idle = anyio.Event()
        self._is_closed = False
        self._limit.apply()

    async def run(self, graph: Graph, fetched: Sequence[Node | Output], fed: Mapping[Output, Any]) -> list[Any]:
        """Run one step; several may run at once.

        Returns:
            The values of the fetches, in order; None for nodes that have none.
        """
        plan = self._plan(graph, fetched, fed)
        values = plan.values.copy()
        for output, slot in plan.fed.items():
            values[slot] = fed[output]
        step = Step(plan, values, self._devices, self._pools, self._inbox)
        self._steps.add(step)
        try:
            return await step.run()
        finally:
            graph.last_run = LastRun(plan.nodes, [self._names[device] for device in plan.devices], step.seconds)
            self._steps.discard(step)
            values.clear()
            step.forget_error()
            if not self._steps:
                self._idle.set()

    def forget(self, graph: Graph) -> None:
        """Keep nothing of a graph."""
        for key in [key for key in self._plans if key[0] is graph]:
            del self._plans[key]

    async def close(self) -> None:
        """Cancel the steps that run, with `SessionClosed`, and end the threads after their present kernels; bounded."""
        self._is_closed = True
        self._idle = anyio.Event()
        for step in list(self._steps):
            step.abort(SessionClosed("the session was closed while this step ran"))
        with anyio.move_on_after(CLOSE_S):
            if self._steps:
                await self._idle.wait()
        for step in self._steps:
            step.abandon()
        threads = [thread for pool in self._pools if pool is not None for thread in pool.close()]
        if threads:
            await anyio.to_thread.run_sync(_end, threads)
        self._limit.undo()

    def _plan(self, graph: Graph, fetched: Sequence[Node | Output], fed: Mapping[Output, Any]) -> Plan:
        key = (graph, graph.version, tuple(fetched), frozenset(fed))
        plan = self._plans.get(key)
        if plan is None:
            nodes = prune(fetched, fed)
            placed = self._place(graph, nodes)
            kinds = [(device.kind, len(device.streams)) for device in self._devices]
            plan = make_plan(nodes, fetched, fed, placed, kinds)
            while len(self._plans) >= PLANS_MAX:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan
        return plan

    def _place(self, graph: Graph, nodes: Sequence[Node]) -> dict[Node, int]:
        before = self._placed.setdefault(graph, {})
        names = [device.name for device in self._devices]
        placed = place(nodes, names, soft=self._config.allow_soft_placement, placed=before)
        if self._config.log_device_placement:
            sys.stderr.write(placement_table([node for node in nodes if node.index not in before], placed, names))
        before.update((node.index, device) for node, device in placed.items())
        return placed


def _end(threads: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + CLOSE_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    for thread in threads:
        if thread.is_alive():
            logger.warning("a kernel still runs on thread %r; it was left behind", thread.name)
