"""Clusters under many seeds: sessions run steps through different masters while connections, nodes and servers fail.

250 seeds of short histories in every run, 50,000 with

    HYPOTHESIS_PROFILE=nightly python -m pytest tests/simulation/test_clusters.py
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from typing import TYPE_CHECKING, Any
from unittest import mock

import anyio
import pytest

import aioflow as flow
from aioflow import errors
from aioflow.errors import AioflowError, NodeFailed
from aioflow.testing import Faults, on_node, simulate

from . import cluster_ops as ops

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = 50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 250
SEEDS_EACH = 250

CLUSTER = {"ps": ["sim://ps0"], "worker": ["sim://worker0", "sim://worker1"]}
TASKS = ["/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"]
CONFIG = flow.SessionConfig(connect_s=3, heartbeat_s=1.5, lost_s=2, session_s=4)
FAULTS = Faults(disconnects=2, partitions=1, restarts=1, slow=1, within_s=2.0, lasting_s=2.5)

CLIENTS, STEPS = 2, 2
# A step waits for tasks that are missing (connect_s), for silence to be noticed and borne (twice lost_s), or for the
# session to be over (session_s), and for the withdrawal of what it had begun.
STEP_S = 20.0
# A step that is cancelled waits for what becomes of it, within a bound.
CANCEL_S = 1.5
# When all faults are over, and what they made end has ended.
REST_S = FAULTS.lasting_s + CONFIG.lost_s + CONFIG.session_s + 1.0


class Client:
    """One session after the other, with a graph over all tasks."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.rng = rng
        self.expected: dict[flow.Node, int] = {}
        self.waiting: set[flow.Node] = set()  # those that may wait for ever
        self.graph = flow.Graph()
        with self.graph:
            with flow.device("/job:ps/task:0"):
                weights = flow.Variable(0, name="weights")
            with flow.device(rng.choice(TASKS)):
                queue = flow.FIFOQueue(8, ["int64"], [()], shared_name="numbers")
            self.nodes: list[Any] = []
            for node in range(rng.randint(2, 7)):
                self.nodes.append(self._combine(node, (rng.random() < 0.2 and self.rng.choice(["fail", "wait"])) or ""))
            added = weights.nodes.assign_add(1)
            put = queue.nodes.enqueue(rng.choice([added, rng.choice(self.nodes)]))
            with flow.control_dependencies([put] if rng.random() < 0.5 else []):
                taken = queue.nodes.dequeue()
            with flow.device(rng.choice(TASKS)):
                used = flow.identity(taken)
            self.others = [added, put, taken, used, weights.nodes.read(), weights.nodes.initializer()]
            self.waiting |= {put, taken}

    def _combine(self, node: int, how: str) -> Any:
        rng = self.rng
        taken = rng.choices(self.nodes, k=rng.randint(0, 2)) if self.nodes else []
        after = rng.sample(self.nodes, k=rng.randint(0, min(2, len(self.nodes))))
        with flow.device(rng.choice(TASKS)), flow.control_dependencies(after):
            seconds = rng.choice([0.0, 0.0, 0.3 * rng.random()])
            made = ops.combine(node, taken, seconds, how)
        if how == "wait":
            self.waiting.add(made)
        if not how and all(other in self.expected for other in (*taken, *after)):
            self.expected[made] = ops.compute(node, [self.expected[other] for other in taken])
        return made

    async def run(self) -> None:
        """Run steps, in a new session where the last one is over."""
        with on_node(f"client{self.number}"):
            left = STEPS
            while left:
                master = self.rng.choice([address for tasks in CLUSTER.values() for address in tasks])
                try:
                    async with flow.Session(master, config=CONFIG) as session:
                        while left:
                            left -= 1
                            await self._step(session)
                except errors.ConnectFailed:
                    left -= 1
                except errors.SessionClosed:
                    pass

    async def _step(self, session: flow.Session) -> None:
        rng = self.rng
        fetches = rng.sample([*self.nodes, *self.others], k=rng.randint(1, 4))
        is_cancelled = rng.random() < 0.3 or self._may_wait(fetches)
        within_s = rng.choice([0.05, 1.0]) * rng.random() if is_cancelled else STEP_S
        is_over = False
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with anyio.move_on_after(within_s) as bound:
            try:
                values = await session.run(fetches)
            except AioflowError as error:
                check_error(error, self.nodes)
                is_over = isinstance(error, errors.SessionClosed)
            else:
                for node, value in zip(fetches, values, strict=True):
                    assert node not in self.expected or value == self.expected[node], f"{node} has {value}"
        assert is_cancelled or not bound.cancelled_caught, f"{fetches} took over {STEP_S} s"
        assert loop.time() < begun + within_s + CANCEL_S, f"{fetches} took {loop.time() - begun} s to be cancelled"
        if is_over:
            raise errors.SessionClosed
        await anyio.sleep(rng.choice([0.0, 0.5 * rng.random()]))

    def _may_wait(self, fetches: list[Any]) -> bool:
        found: set[flow.Node] = set()
        todo = [given.node for given in fetches]
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += node.predecessors
        return bool(found & self.waiting)


def check_error(error: AioflowError, nodes: list[Any]) -> None:
    """Assert that a step failed in one of the ways in which it may."""
    if isinstance(error, NodeFailed):
        cause = error.__cause__
        assert isinstance(cause, errors.RemoteError)
        assert cause.type_name == "ZeroDivisionError", cause.traceback_text
        assert error.node in {node.name for node in nodes}
        assert error.device.startswith("/job:")
    else:
        expected = errors.TransportError, errors.SessionError, errors.QueueReset
        assert isinstance(error, expected), repr(error)


def what_is_kept(server: Any) -> dict[str, Any]:
    """Look at what a server keeps of steps and of sessions that are over: nothing, where all is well."""
    service, broker = server._service, server._broker
    worker, master, neighbours = service._worker, service._master, service._neighbours
    sessions = list(broker._sessions)
    kept: dict[str, Any] = {
        "running requests": service._running,
        "steps that wait for an answer": broker.steps._sessions,
        "rendezvous": {**worker.rendezvous._running, **worker.rendezvous._early},
        "owners": worker._owners,
        "bound graphs": worker._bound,
        "plans of parts": {} if worker._executor is None else worker._executor._plans,
        "steps": set() if worker._executor is None else worker._executor._steps,
        "plans of graphs": dict(master._graphs),
        "owners that tasks were told of": master._told,
        "calls of nodes": broker._tickets.watched,
        "calls of sessions": broker._tickets.owners,
        "graphs": {number: graph for session in sessions for number, graph in session.graphs.items()},
        "sessions of clients": [session.name for session in sessions if session.is_target],
        "requests": [request for session in sessions for request in (*session.steps, *session.waiting)],
    }
    for task, host in neighbours._hosts.items():
        if not host.has_ended:
            kept[f"calls of {task}"] = host._calls
            kept[f"requests of {task}"] = {r.id: r.kind.__name__ for r in host._peer._requests.values()}
    return {what: found for what, found in kept.items() if found}


async def history(seed: int, servers: list[flow.Server]) -> None:
    """Have clients run steps, and look at the servers when all has come to rest."""
    ops.forget()
    servers[:] = [server for server in servers if server._listeners]
    rng = random.Random(seed)
    clients = [Client(number, random.Random(rng.random())) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(), name=f"client{client.number}")
    await asyncio.sleep(REST_S)
    assert not ops.running, "kernels run on"
    for server in servers:
        if not server._stopped.is_set():
            kept = what_is_kept(server)
            assert not kept, f"{server.address} keeps {kept}"


def check_cluster(seed: int) -> None:
    """Simulate a cluster."""
    servers: list[flow.Server] = []
    start = flow.Server.start

    async def record(self: flow.Server) -> flow.Server:
        servers.append(self)
        return await start(self)

    async def main() -> None:
        await history(seed, servers)

    with mock.patch.object(flow.Server, "start", record):
        simulate(main, seed=seed, faults=FAULTS, servers=CLUSTER, ops=[ops.__name__], config=CONFIG, limit_s=300)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Sessions log each loss of a connection."""
    logger = logging.getLogger("aioflow")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_EACH))
def test_histories(first: int) -> None:
    """Every step ends by a value or a typed error, within a bound; nothing runs on, and nothing is kept."""
    for seed in range(first, first + SEEDS_EACH):
        check_cluster(seed)
    gc.collect()
