"""Graphs over three servers in one event loop: what sessions share, and what is left of one that is over."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.cluster import _messages as m
from aioflow.cluster._codec import encode
from aioflow.cluster._library import OpLibrary
from aioflow.cluster._steps import TensorCame
from aioflow.cluster._values import encode_value
from aioflow.errors import TransportError
from aioflow.graph import Output, Task
from aioflow.transport import Connection, Frame, find_transport

pytestmark = pytest.mark.anyio

TEST_S = 10.0
TASKS = ["/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"]
CONFIG = flow.SessionConfig(connect_s=2, heartbeat_s=0.2, lost_s=0.5, session_s=1.5)

_numbers = count()


@asynccontextmanager
async def cluster() -> AsyncGenerator[list[flow.Server]]:
    """Serve a ps and two workers."""
    number = next(_numbers)
    ps, *workers = (f"inproc://cluster-{number}-{task}" for task in range(3))
    jobs = {"ps": [ps], "worker": workers}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(flow.Server(jobs, job, task, config=CONFIG, ops=[__name__]))
            for job, task in [("ps", 0), ("worker", 0), ("worker", 1)]
        ]


async def until(is_so: Callable[[], Any]) -> None:
    """Give turns until something is so."""
    with anyio.fail_after(TEST_S):
        while not is_so():
            await anyio.sleep(0.001)


def ints(device: str, name: str = "numbers") -> flow.FIFOQueue:
    """Define a queue."""
    return flow.FIFOQueue(8, ["int64"], [()], shared_name=name, device=device)


async def test_a_dequeue_node_takes_nothing_once_its_session_is_closed() -> None:
    """On its master and on another task: what is put later is there for others."""
    for device in TASKS[:2]:
        async with cluster() as (ps, worker, other):
            queue = ints(device)
            with flow.Graph():
                taken = queue.nodes.dequeue()
            async with anyio.create_task_group() as group:
                session = await flow.Session(ps, config=CONFIG).open()
                group.start_soon(_run_and_be_closed, session, taken)
                async with flow.Session(other):
                    await until_waiting(queue)
                    await session.close()
                    await queue.enqueue(7)
                    with anyio.fail_after(TEST_S):
                        assert await queue.dequeue() == 7
            for server in (ps, worker):
                await until(partial(has_no_calls, server))


async def _run_and_be_closed(session: flow.Session, fetches: Any) -> None:
    with pytest.raises(flow.SessionClosed):
        await session.run(fetches)


def has_no_calls(server: flow.Server) -> bool:
    """Whether no queue of a server expects anything of a node."""
    return not server._broker._tickets.watched


async def until_waiting(queue: flow.FIFOQueue) -> None:
    """Wait until a get waits at a queue."""
    with anyio.fail_after(TEST_S):
        while not (await queue.stats()).gets_waiting:
            await anyio.sleep(0.001)


class _Refusing:
    """A server that ends each connection before its welcome."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def received(self, frames: list[Frame]) -> None:
        """Answer what comes with a goodbye that leaves the session alive."""
        del frames
        self._connection.send(encode(m.Goodbye("ConnectionLost", "not now")))

    def lost(self, error: TransportError) -> None:
        """Learn of the end."""


async def test_an_outage_is_one_though_connections_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps give up after `lost_s` also where each new connection is ended before its welcome."""
    monkeypatch.setattr("aioflow.cluster._link.PAUSE_MAX_S", 0.02)
    address = f"inproc://refusing-{next(_numbers)}"
    server = await flow.Server({"local": [address]}, config=CONFIG).start()
    async with flow.Session(address, config=CONFIG) as session:
        with flow.Graph():
            value = flow.identity(1)
        assert await session.run(value) == 1
        await server.close()
        async with anyio.create_task_group() as group:
            listener = await find_transport(address).listen(address, _Refusing, group)
            begun = anyio.current_time()
            with pytest.raises(flow.ConnectionLost, match="not now"):
                await session.run(value)
            assert CONFIG.lost_s * 0.9 < anyio.current_time() - begun + 0.2 < CONFIG.session_s * 0.8
            await listener.aclose()
            group.cancel_scope.cancel()


async def test_early_values_expire_without_another_deadline() -> None:
    """The timer hears of them."""
    async with cluster() as (_, worker, __):
        service = worker._service
        service._broker.steps._effects.append(TensorCame("step", "key", encode_value(1)))
        worker._send()
        rendezvous = service._worker.rendezvous
        assert not rendezvous.is_empty
        await until(lambda: rendezvous.is_empty)


async def test_a_part_that_cannot_begin_keeps_no_values() -> None:
    """Where the server has not one of its ops: those that came are dropped with it, and those that come later."""
    async with cluster() as (_, worker, __):
        runner = worker._service._worker
        with flow.Graph() as graph, flow.device(TASKS[1]):
            node = missing()
        runner._library = OpLibrary()
        runner.rendezvous.give("step", "key", encode_value(1), 0.0)
        with pytest.raises(flow.UnknownOp):
            await runner.run("owner", graph, [Output(node, 0)], {}, "step")
        runner.rendezvous.give("step", "other", encode_value(1), 0.0)
        assert runner.rendezvous.is_empty


async def test_a_session_between_tasks_that_was_started_anew_is_sent_parts_again() -> None:
    """A task forgets parts with the session of the master, although it is the same server."""
    async with cluster() as (_, worker, other):
        with flow.Graph(), flow.device(TASKS[2]):
            value = flow.identity(1)
        async with flow.Session(worker, config=CONFIG) as session:
            assert await session.run(value) == 1
            [host] = [host for task, host in worker._service._neighbours._hosts.items() if str(task) == TASKS[2]]
            known = other._broker._sessions.get(host.secret)
            assert known is not None
            other._broker._end_for(known, "for a test")
            other._send()
            await until(lambda: host.has_ended)
            assert await session.run(value) == 1


async def test_the_error_of_a_value_that_cannot_be_given_names_the_task() -> None:
    """Whose server was lost, and not the one that had the value."""
    async with cluster() as (_, worker, other):
        with flow.Graph(), flow.device(TASKS[2]):
            value = flow.identity(1)
        async with flow.Session(worker, config=CONFIG) as session:
            await session.run(value)
        await other.close()
        with pytest.raises(flow.ConnectionLost, match=rf"\({TASKS[2]}\) is out of reach"):
            while True:
                await worker._service._neighbours.deliver(Task("worker", 1), "s", "key", encode_value(1))


async def test_servers_forget_the_graphs_that_a_program_has_dropped() -> None:
    """A graph made anew for each step is not kept until the session ends, neither by its master nor by others."""
    async with cluster() as (_, worker, other), flow.Session(worker, config=CONFIG) as session:
        for number in range(20):
            with flow.Graph(), flow.device(TASKS[2]):
                value = flow.identity(number)
            assert await session.run(value) == number
            del value
            gc.collect()
        await until(lambda: graphs_of(worker) <= 2)
        await until(lambda: graphs_of(other) <= 2)


def graphs_of(server: flow.Server) -> int:
    """How many graphs and parts a server has of its sessions."""
    return sum(len(session.graphs) for session in server._broker._sessions)


@flow.op
async def leave() -> None:
    """End the process, in the opinion of who wrote this."""
    raise SystemExit(3)


@flow.op
def leave_on_a_thread() -> None:
    """Do the same there."""
    raise SystemExit(3)


class OwnError(BaseException):
    """Of somebody who does not want it to be caught."""


@flow.op
async def raise_it(kind: int) -> None:
    """Raise what no `except Exception` catches."""
    raise (GeneratorExit, OwnError, KeyboardInterrupt, BaseExceptionGroup("several", [KeyboardInterrupt()]))[kind]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
@pytest.mark.parametrize("kind", range(4))
async def test_no_exception_of_a_kernel_ends_a_server(kind: int) -> None:
    """Whatever it is, its node has failed, on the master and on another task; both serve on."""
    async with cluster() as (_, worker, __), flow.Session(worker, config=CONFIG) as session:
        for device in TASKS[1:]:
            with flow.Graph(), flow.device(device):
                failing, value = raise_it(kind), flow.identity(1)
            with pytest.raises(flow.NodeFailed, match=f"node 'raise_it' on {device}"):
                await session.run(failing)
            assert await session.run(value) == 1


@flow.op
async def cancel_in_time() -> None:
    """Cancel the task that a kernel runs in, which is the server's."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@flow.op
async def cancel_too_late() -> None:
    """Do the same, and be done before it happens."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_kernel_that_cancels_its_task_does_not_end_a_server() -> None:
    """It fails, or nothing comes of it; the master and another task serve on."""
    async with cluster() as (_, worker, __), flow.Session(worker, config=CONFIG) as session:
        for device in TASKS[1:]:
            with flow.Graph(), flow.device(device):
                left, late, value = cancel_in_time(), cancel_too_late(), flow.identity(1)
            with pytest.raises(flow.NodeFailed, match=f"{device}.*cancelled"):
                await session.run(left)
            with suppress(flow.NodeFailed):
                await session.run(late)
            assert await session.run(value) == 1


async def test_a_kernel_cannot_end_a_server() -> None:
    """A `sys.exit` in one is a failure of its node, on the master and on another task; both serve on."""
    async with cluster() as (_, worker, __), flow.Session(worker, config=CONFIG) as session:
        for op in (leave, leave_on_a_thread):
            for device in TASKS[1:]:
                with flow.Graph(), flow.device(device):
                    left, value = op(), flow.identity(1)
                with pytest.raises(flow.NodeFailed, match=f"{device}.*SystemExit: 3") as caught:
                    await session.run(left)
                assert f"node {op.name!r}" in caught.value.__notes__[0]
                assert await session.run(value) == 1


@flow.op
def missing() -> int:
    """Be missing on a server that does not name this module."""
    return 1


async def test_a_reset_is_one_of_the_whole_cluster() -> None:
    """A variable that one session assigned is read through another server, until its container is emptied."""
    with flow.device(TASKS[0]):
        kept = flow.Variable(0, name="v")
        with flow.container("experiment"):
            gone = flow.Variable(0, name="v")
    with flow.device(TASKS[2]), flow.container("experiment"):
        gone_too = flow.Variable(0, name="v")
    async with cluster() as (ps, worker, other):
        async with flow.Session(worker) as session:
            with flow.Graph():
                assigned = [variable.nodes.assign(7) for variable in (kept, gone, gone_too)]
            assert await session.run(assigned) == [7, 7, 7]
        with anyio.fail_after(TEST_S):
            async with flow.Session(ps) as on_ps, flow.Session(other) as on_other:
                assert await gone.on(on_other).read() == 7
                await flow.Session.reset(ps, ["experiment"])
                with pytest.raises(flow.SessionClosed, match="were reset"):
                    await kept.on(on_ps).read()
                for variable in (gone, gone_too):
                    with pytest.raises(flow.NotInitialised):
                        await variable.on(on_other).read()
                assert await kept.on(on_other).read() == 7
