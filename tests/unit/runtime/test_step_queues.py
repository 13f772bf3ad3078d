"""Queues in steps: what a dequeue node took is the queue's until another node is started with it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.client import _queue_nodes
from aioflow.graph import Op
from aioflow.runtime import Taken
from aioflow.testing._queue_stage import until

pytestmark = pytest.mark.anyio

TEST_S = 10.0


def numbers(capacity: int = 10) -> flow.FIFOQueue:
    """Make a queue of numbers."""
    return flow.FIFOQueue(capacity, "int64", ())


async def contents(q: flow.Queue) -> list[int]:
    """Close a queue and take what is in it."""
    await q.close()
    return [int(x) async for x in q]


@flow.op
async def fail(*_: Any) -> None:
    """Raise."""
    await checkpoint()
    raise ValueError("no")


# What the nodes do


async def test_each_operation() -> None:
    """A node does what the queue's method does, with values of nodes."""
    q = flow.FIFOQueue(10, ("int64", "float32"), ((), (2,)), names=("n", "v"))
    with flow.Graph():
        n = flow.placeholder("n")
        put = q.nodes.enqueue({"n": n, "v": [1, 2]})
        many = q.nodes.enqueue_many({"n": [1, 2, 3], "v": np.ones((3, 2))})
        got, some, rest = q.nodes.dequeue(), q.nodes.dequeue_many(n), q.nodes.dequeue_up_to(5)
        size, is_closed, close = q.nodes.size(), q.nodes.is_closed(), q.nodes.close()
    async with flow.Session() as session:
        *done, held = await session.run([put, many, size], {n: 7})
        assert (done, int(held) in range(5)) == ([None, None], True)
        assert await session.run(size) == 4
        first = await session.run([got, some["n"]], {n: 2})
        values = {int(first[0]["n"]), *map(int, first[1])}
        assert len(values) == 3
        assert first[0]["v"].dtype == np.float32
        assert await session.run([is_closed, close]) in ([False, None], [True, None])
        last = await session.run(rest)
        assert values | {int(last["n"][0])} == {7, 1, 2, 3}
        assert await session.run(is_closed) is True


async def test_errors_of_queues_have_a_note_of_the_node() -> None:
    """The end of a queue ends a step as it is, and so does a put on a closed queue."""
    q = numbers()
    with flow.Graph():
        got, put = q.nodes.dequeue(), q.nodes.enqueue(1)
    async with flow.Session() as session:
        await q.close()
        for node, error in ((got, flow.EndOfQueue), (put, flow.QueueClosed)):
            with pytest.raises(error) as caught:
                await session.run(node)
            assert caught.value.__notes__[-1].startswith(f"aioflow: in node '{node.name}' on /job:localhost")
            assert node.line in caught.value.__notes__[-1]


async def test_nodes_of_a_queue_on_a_server() -> None:
    """A queue that is bound to another session is used there."""
    q = numbers()
    async with flow.Server({"local": ["inproc://step-queues"]}) as server, flow.Session(server) as remote:
        there = flow.FIFOQueue(10, "int64", (), shared_name="q")
        with flow.Graph():
            moved = q.nodes.enqueue(there.on(remote).nodes.dequeue())
        async with flow.Session() as session:
            await there.on(remote).enqueue_many([1, 2])
            await session.run(moved)
            assert int(await q.on(session).dequeue()) == 1
            assert await there.on(remote).size() == 1


async def test_a_node_dequeues_once() -> None:
    """A dequeue that feeds two fetches, and two other nodes, takes one element."""
    q = numbers()
    with flow.Graph():
        got = q.nodes.dequeue()
        fetches = [got, flow.identity(got), [got, Op(lambda x: x, "plain")(got)]]
    async with flow.Session() as session:
        await q.enqueue_many([1, 2, 3])
        for number in (1, 2):
            assert await session.run(fetches) == [number, number, [number, number]]
        assert await q.size() == 1


async def test_a_blocked_operation_occupies_no_thread() -> None:
    """semantics 1.12: 50 dequeues and 50 enqueues in one step, with one thread, which a kernel has."""
    q = numbers(1)
    may_end = threading.Event()

    @flow.op
    def hold() -> bool:
        return may_end.wait(TEST_S)

    @flow.op
    async def release(*_: Any) -> None:
        may_end.set()

    with flow.Graph():
        held = hold()
        got = [q.nodes.dequeue() for _ in range(50)]
        put = [q.nodes.enqueue(number) for number in range(50)]
        end = release(got)
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=1)) as session:
        with anyio.fail_after(TEST_S):
            values, *_, is_held = await session.run([got, end, put, held])
    assert sorted(map(int, values)) == list(range(50))
    assert is_held


async def test_the_end_of_a_queue_in_a_step_that_took_the_last_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dequeues of one step, one element, a queue that is closed before or after: the step ends."""
    monkeypatch.setattr(_queue_nodes, "HOLD_S", 0.05)
    for is_closed in (True, False):
        q = numbers()
        with flow.Graph():
            nodes = [q.nodes.dequeue(), q.nodes.dequeue()]
        async with flow.Session() as session, anyio.create_task_group() as tasks:
            await q.enqueue(1)
            if is_closed:
                await q.close()
            else:
                tasks.start_soon(q.close)
            with anyio.fail_after(TEST_S), pytest.raises(flow.EndOfQueue):
                await session.run(nodes)
            assert [int(x) async for x in q] == []


# Back to the queue, or not


async def run_to_failure(session: flow.Session, *fetches: Any) -> None:
    """Run a step that fails when it has run what is fetched."""
    with pytest.raises(flow.NodeFailed):
        await session.run([*fetches, after(fail, fetches)])


async def run_to_cancel(session: flow.Session, *fetches: Any) -> None:
    """Run a step that is cancelled when it has run what is fetched."""
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            scope.cancel()
            await anyio.sleep_forever()

        await session.run([*fetches, after(Op(cancel, "cancel"), fetches)])


def after(op: Op, nodes: Any) -> flow.Node:
    """Make a node that runs after others."""
    with nodes[0].node.graph, flow.control_dependencies(nodes):
        node: flow.Node = op()
        return node


ENDS = pytest.mark.parametrize("end", [run_to_failure, run_to_cancel])


@ENDS
async def test_what_was_taken_goes_back(end: Callable[..., Awaitable[None]]) -> None:
    """A step that does not succeed gives back what no other node was started with, in the queue's order."""
    q = numbers()
    with flow.Graph():
        first = q.nodes.dequeue()
        with flow.control_dependencies([first]):
            second = q.nodes.dequeue_many(2)
        with flow.control_dependencies([second]):
            third = q.nodes.dequeue()
    async with flow.Session() as session:
        await q.enqueue_many(range(6))
        with anyio.fail_after(TEST_S):
            await end(session, first, second, third)
        assert await contents(q) == [0, 1, 2, 3, 4, 5]


@ENDS
async def test_what_was_taken_for_its_effect_goes_back_too(end: Callable[..., Awaitable[None]]) -> None:
    """A dequeue whose value nobody uses is not decided before the end of the step."""
    q = numbers()
    with flow.Graph():
        dropped = flow.group(q.nodes.dequeue())
    async with flow.Session() as session:
        await q.enqueue_many([1, 2])
        with anyio.fail_after(TEST_S):
            await end(session, dropped)
        assert await q.size() == 2
        await session.run(dropped)
        assert await contents(q) == [2]


@ENDS
@pytest.mark.parametrize("kind", ["coroutine", "thread", "inline"])
async def test_what_another_node_was_started_with_stays_taken(end: Callable[..., Awaitable[None]], kind: str) -> None:
    """It was used: it does not come twice."""
    q = numbers()
    used: list[int] = []

    def use(x: Any) -> None:
        used.append(int(x))

    async def use_later(x: Any) -> None:
        used.append(int(x))

    op = Op(use_later, "use") if kind == "coroutine" else Op(use, "use", is_inline=kind == "inline")
    with flow.Graph():
        user = op(q.nodes.dequeue())
    async with flow.Session() as session:
        await q.enqueue_many([1, 2])
        with anyio.fail_after(TEST_S):
            await end(session, user)
        assert used == [1]
        assert await contents(q) == [2]


async def test_one_of_several_components_used() -> None:
    """An element is taken as a whole: one component that was used keeps the others."""
    q = flow.FIFOQueue(10, ("int64", "int64"), ((), ()))
    with flow.Graph():
        x, y = q.nodes.dequeue()
        user = flow.identity(x)
    async with flow.Session() as session:
        await q.enqueue((1, 2))
        await run_to_failure(session, user, y)
        assert await q.size() == 0


async def test_what_waits_for_a_thread_was_not_started() -> None:
    """A kernel that stands behind another one on the only thread has not begun: its element goes back."""
    q = numbers()
    may_end = threading.Event()
    used: list[Any] = []

    @flow.op
    def hold() -> None:
        may_end.wait(TEST_S)

    @flow.op
    async def release_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            may_end.set()

    @flow.op
    async def fail_when_taken() -> None:
        await until(q, size=1)
        await anyio.wait_all_tasks_blocked()
        raise ValueError

    with flow.Graph():
        held = hold()
        user = Op(used.append, "use")(q.nodes.dequeue())
        fetches = [held, user, release_when_cancelled(), fail_when_taken()]
    async with flow.Session(config=flow.SessionConfig(inter_op_parallelism_threads=1)) as session:
        await q.enqueue_many([1, 2])
        with anyio.fail_after(TEST_S), pytest.raises(flow.NodeFailed, match="ValueError"):
            await session.run(fetches)
        assert await contents(q) == [1, 2]
    assert used == []


async def test_a_waiting_dequeue_that_is_cancelled_takes_nothing() -> None:
    """Neither the one that waits nor the rows that it had taken are lost."""
    q = numbers()
    with flow.Graph():
        batch = q.nodes.dequeue_many(3)
    async with flow.Session() as session:
        await q.enqueue_many([1, 2])
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.run, batch)
                await until(q, size=0)
                tasks.cancel_scope.cancel()
        assert await contents(q) == [1, 2]


# What cannot be acknowledged any more


class Ledger:
    """Makes values that are taken, and notes what becomes of them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def take(self, name: str, *, is_lost: bool = False) -> Taken:
        """Take one; a lost one cannot be acknowledged."""

        def acknowledge() -> None:
            self.log.append(f"acknowledge {name}")
            if is_lost:
                raise flow.ConnectionLost(f"{name} went back")

        return Taken(name, acknowledge, lambda: self.log.append(f"withdraw {name}"))


@pytest.mark.parametrize("kind", ["coroutine", "thread", "inline", None])
async def test_what_went_back_by_itself(kind: str | None) -> None:
    """A connection that was lost meanwhile ends the step with that error, and what is left goes back."""
    ledger = Ledger()
    ran: list[Any] = []

    async def run_later(x: Any) -> None:
        ran.append(x)

    take = Op(ledger.take, "take", is_inline=True)
    op = Op(run_later, "use") if kind == "coroutine" else Op(ran.append, "use", is_inline=kind == "inline")
    with flow.Graph():
        lost, kept = take("lost", is_lost=True), take("kept")
        with flow.control_dependencies([kept]):
            user = op(lost) if kind else lost
    async with flow.Session() as session:
        with anyio.fail_after(TEST_S), pytest.raises(flow.ConnectionLost, match="lost went back") as caught:
            await session.run([user, kept] if kind else [lost, kept])
    if kind:
        assert "'use'" in caught.value.__notes__[-1]
    assert ledger.log == ["acknowledge lost", "withdraw kept"]
    assert kind == "thread" or ran == []


async def test_each_is_decided_once() -> None:
    """Whoever uses it, and however often: one answer."""
    ledger = Ledger()
    take = Op(ledger.take, "take", is_inline=True)
    with flow.Graph():
        a = take("a")
        fetches = [flow.identity(a), flow.identity(a), a, take("b")]
    async with flow.Session() as session:
        assert await session.run(fetches) == ["a", "a", "a", "b"]
    assert ledger.log == ["acknowledge a", "acknowledge b"]


async def test_the_last_one_taken_goes_back_first() -> None:
    """So each stands before the one that was taken after it, whatever the queue's order is."""
    ledger = Ledger()
    take = Op(ledger.take, "take", is_inline=True)
    with flow.Graph():
        first = take("first")
        with flow.control_dependencies([first]):
            second = take("second")
    async with flow.Session() as session:
        await run_to_failure(session, first, second)
    assert ledger.log == ["withdraw second", "withdraw first"]


async def test_a_component_that_was_used_is_dropped() -> None:
    """What is held of an element is what is still needed of it."""

    class Thing:
        pass

    watched: list[weakref.ref[Thing]] = []

    def take() -> Taken:
        things = Thing(), Thing()
        watched.append(weakref.ref(things[0]))
        return Taken(things, lambda: None, lambda: None)

    with flow.Graph():
        x, y = Op(take, "take", num_outputs=2, is_inline=True)()
        used = Op(lambda _: None, "use", is_inline=True)(x)
        with flow.control_dependencies([used]):
            is_gone = Op(lambda: watched[0]() is None, "look", is_inline=True)()
    async with flow.Session() as session:
        assert (await session.run([is_gone, y]))[0] is True
