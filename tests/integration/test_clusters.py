"""Clusters of three processes: what fails, is killed or cancelled on one task ends on all, and steps work again."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import numpy as np
import pytest

import aioflow as flow
from aioflow import errors

from . import cluster_ops as ops
from .conftest import Program

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TASKS = ["/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"]
LOST_S = 1.0
CONFIG = flow.SessionConfig(connect_s=10, heartbeat_s=0.25, lost_s=LOST_S, session_s=20)
BOUND_S = 30.0

SERVE = """
import anyio
import aioflow as flow

async def main():
    config = flow.SessionConfig(connect_s=10, heartbeat_s=0.25, lost_s={lost_s}, session_s=20)
    async with flow.Server({jobs!r}, {job!r}, {task}, config=config, ops=[{ops!r}]) as server:
        print("serves", flush=True)
        await server.join()

anyio.run(main)
"""


@dataclass
class Cluster:
    """Three servers."""

    jobs: dict[str, list[str]]
    addresses: list[str]
    folder: str
    run: Callable[..., Program]
    programs: list[Program]

    def start(self, number: int) -> None:
        """Start a server, also anew."""
        job, task = [("ps", 0), ("worker", 0), ("worker", 1)][number]
        program = self.run(SERVE.format(jobs=self.jobs, job=job, task=task, ops=ops.__name__, lost_s=LOST_S))
        self.programs[number : number + 1] = [program]

    def waits(self, name: str) -> bool:
        """Whether a kernel waits under a name."""
        return (Path(self.folder) / name).exists()

    async def until(self, name: str, *, waits: bool = True) -> float:
        """Wait until a kernel does, or does not; return the time."""
        with anyio.fail_after(BOUND_S):
            while self.waits(name) != waits:
                await anyio.sleep(0.005)
        return monotonic()


@pytest.fixture
def anyio_backend() -> str:
    """One kind of event loop: the others are the unit tests'."""
    return "asyncio"


@pytest.fixture
def cluster(folder: Path, tmp_path: Path, run_program: Callable[..., Program]) -> Iterator[Cluster]:
    """A ps and two workers, each a process."""
    ps, *workers = (f"ipc://{folder}/{task}" for task in range(3))
    cluster = Cluster({"ps": [ps], "worker": workers}, [ps, *workers], str(tmp_path), run_program, [])
    for number in range(3):
        cluster.start(number)
    for program in cluster.programs:
        program.read_until("serves")
    yield cluster
    for program in cluster.programs:
        program.process.send_signal(signal.SIGINT)
    for program in cluster.programs:
        program.finish()
    for path in folder.iterdir():  # of servers that were killed
        path.unlink()


async def test_random_graphs(cluster: Cluster) -> None:
    """On threads and coroutines, with arrays large and small, whichever is the master."""
    rng = random.Random(1)
    for master in cluster.addresses:
        async with flow.Session(master, config=CONFIG) as session:
            for _ in range(5):
                nodes: list[Any] = []
                expected: list[Any] = []
                with flow.Graph():
                    for number in range(12):
                        taken = rng.choices(range(number), k=rng.randint(0, 1)) if number else []
                        first = number if taken else np.full(rng.choice([1, 10, 5000]), number)
                        with flow.device(rng.choice(TASKS)):
                            nodes.append(ops.add(first, *(nodes[one] for one in taken)))
                        expected.append(first + sum(expected[one] for one in taken))
                values = await session.run(nodes)
                assert all(np.array_equal(value, one) for value, one in zip(values, expected, strict=True))


async def test_a_failure_ends_the_step_on_all_tasks(cluster: Cluster) -> None:
    """Within a second, and names the task; through a master that runs neither node."""
    async with flow.Session(cluster.addresses[2], config=CONFIG) as session:
        with flow.Graph():
            with flow.device(TASKS[0]):
                failing = ops.fail(cluster.folder, "a")
            with flow.device(TASKS[1]):
                waiting = ops.wait(cluster.folder, "a")
        with pytest.raises(flow.NodeFailed) as caught:
            await session.run([failing, waiting])
        failed = monotonic()
        assert await cluster.until("a", waits=False) - failed < 1.0
    assert caught.value.node == "fail"
    assert caught.value.device == "/job:ps/task:0/device:CPU:0"
    cause = caught.value.__cause__
    assert isinstance(cause, errors.RemoteError)
    assert 'ZeroDivisionError("on purpose")' in cause.traceback_text


async def test_a_cancelled_step_ends_on_all_tasks(cluster: Cluster) -> None:
    """So does one whose session is closed."""
    async with flow.Session(cluster.addresses[0], config=CONFIG) as session:
        with flow.Graph():
            nodes = []
            for number, task in enumerate(TASKS):
                with flow.device(task):
                    nodes.append(ops.wait(cluster.folder, str(number)))
        async with anyio.create_task_group() as group:
            group.start_soon(session.run, nodes)
            for number in range(3):
                await cluster.until(str(number))
            group.cancel_scope.cancel()
            cancelled = monotonic()
        for number in range(3):
            assert await cluster.until(str(number), waits=False) - cancelled < 1.0


@pytest.mark.parametrize("killed", [1, 2], ids=["worker", "master"])
async def test_a_task_is_killed_in_a_step(cluster: Cluster, killed: int) -> None:
    """Every client gets a typed error in time, none hangs, and steps work again when it is back."""
    ends: list[float] = []
    with flow.Graph():
        parts = []
        for task in TASKS:
            with flow.device(task):
                parts.append(ops.pid())
        total = ops.add(*parts)
        with flow.device(TASKS[1]):
            waiting = ops.wait(cluster.folder, "a", *parts)
        with flow.device(TASKS[2]):
            other = ops.wait(cluster.folder, "b", *parts)

    async def client(session: flow.Session) -> None:
        with pytest.raises(errors.ConnectionLost) as caught:
            await session.run([waiting, other])
        ends.append(monotonic())
        named = [task for number, task in enumerate(TASKS) if task in str(caught.value) and number != 2]
        assert named == [TASKS[killed]] * (killed != 2), "the one that was lost, where it is not the session's own"

    async with flow.Session(cluster.addresses[2], config=CONFIG) as session:
        before = await session.run(total)
        async with anyio.create_task_group() as group:
            group.start_soon(client, session)
            await cluster.until("a")
            await cluster.until("b")
            cluster.programs[killed].process.kill()
            begun = monotonic()
        assert max(ends) - begun < LOST_S + 2.0
        left = "a" if killed == 2 else "b"
        await cluster.until(left, waits=False)
        cluster.programs[killed].process.wait()
        cluster.start(killed)
        with anyio.fail_after(BOUND_S):
            while True:
                try:
                    assert await session.run(total) != before
                except errors.TransportError:
                    await anyio.sleep(0.05)
                else:
                    break


async def test_variables_are_shared(cluster: Cluster) -> None:
    """What one session assigned another reads through another server; additions of two at once are atomic."""
    weights = flow.Variable(0, name="weights", device=TASKS[0])
    with flow.Graph():
        added = weights.nodes.assign_add(1)
        read = weights.nodes.read()
    async with flow.Session(cluster.addresses[1], config=CONFIG) as session:
        await weights.assign(5)
        async with flow.Session(cluster.addresses[2], config=CONFIG) as other:
            assert await other.run(read) == 5

            async def train(session: flow.Session) -> None:
                for _ in range(50):
                    await session.run(added)

            async with anyio.create_task_group() as group:
                group.start_soon(train, session)
                group.start_soon(train, other)
            assert await session.run(read) == await other.run(read) == 105


CLIENT = """
import anyio
import aioflow as flow
from {ops} import wait

async def main():
    async with flow.Session({master!r}) as session:
        with flow.Graph():
            queue = flow.FIFOQueue(8, ["int64"], [()], shared_name="numbers", device="/job:ps/task:0")
            taken = queue.nodes.dequeue()
            with flow.control_dependencies([taken]):
                with flow.device("/job:ps/task:0"):
                    waiting = wait({folder!r}, "a")
        await session.run([taken, waiting])

anyio.run(main)
"""


async def test_a_killed_client_leaves_nothing_running(cluster: Cluster) -> None:
    """Its kernels end, and what its dequeue node took goes back."""
    queue = flow.FIFOQueue(8, ["int64"], [()], shared_name="numbers", device=TASKS[0])
    async with flow.Session(cluster.addresses[0], config=CONFIG):
        await queue.enqueue(7)
        text = CLIENT.format(master=cluster.addresses[1], folder=cluster.folder, ops=ops.__name__)
        client = cluster.run(text)
        await cluster.until("a")
        client.kill()
        killed = monotonic()
        assert await cluster.until("a", waits=False) - killed < LOST_S + 2.0
        with anyio.fail_after(5):
            assert await queue.dequeue() == 7


async def test_what_a_dequeue_node_took_goes_back(cluster: Cluster) -> None:
    """When its step fails, or is cancelled, before another node was started with it."""
    queue = flow.FIFOQueue(8, ["int64"], [()], shared_name="numbers", device=TASKS[0])
    with flow.Graph():
        taken = queue.nodes.dequeue()
        with flow.control_dependencies([taken]), flow.device(TASKS[0]):
            waiting = ops.wait(cluster.folder, "a")
        with flow.device(TASKS[1]):
            failing = ops.fail(cluster.folder, "a")
    async with flow.Session(cluster.addresses[2], config=CONFIG) as session:
        await queue.enqueue_many([7, 8])
        with pytest.raises(flow.NodeFailed):
            await session.run([taken, waiting, failing])
        async with anyio.create_task_group() as group:
            group.start_soon(session.run, [taken, waiting])
            await cluster.until("a")
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            assert [await queue.dequeue(), await queue.dequeue()] == [7, 8]
