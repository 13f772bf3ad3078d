"""Runners: how they end, what becomes of their queues, and who is told of the first error."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.testing._queue_stage import ints, refused, start, until

pytestmark = pytest.mark.anyio

TEST_S = 10.0


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Each kind of event loop."""
    return request.param


@flow.op
async def double(x: int) -> int:
    """Make an element of another one; a negative one is a fault."""
    if x < 0:
        raise ValueError("below zero")
    return 2 * int(x)


def pipeline(source: flow.FIFOQueue, queue: flow.FIFOQueue, times: int = 3) -> flow.QueueRunner:
    """Make a runner that doubles what comes."""
    with flow.Graph():
        node = queue.nodes.enqueue(double(source.nodes.dequeue()))
    return flow.QueueRunner(queue, [node] * times)


def endless(queue: flow.FIFOQueue) -> flow.QueueRunner:
    """Make a runner whose data has no end."""
    with flow.Graph():
        return flow.QueueRunner(queue, [queue.nodes.enqueue(1)] * 2)


async def rest(queue: flow.FIFOQueue) -> list[int]:
    """Take what is left in a closed queue."""
    return [int(x) async for x in queue]


async def test_the_end_of_the_data_closes_the_queue() -> None:
    """semantics 1.13: the last one to end closes it plainly: what it holds can be taken."""
    source, queue = ints(20), ints(20)
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            await source.enqueue_many(range(10))
            await source.close()
            async with flow.Coordinator() as coordinator:
                coordinator.start(pipeline(source, queue))
                await coordinator.join()
                assert await queue.is_closed()
            assert sorted(await rest(queue)) == [2 * x for x in range(10)]


async def test_the_queue_stays_open_while_one_node_goes_on() -> None:
    """One whose data has ended does not end the others."""
    first, second, queue = ints(), ints(), ints()
    with flow.Graph():
        nodes = [queue.nodes.enqueue(source.nodes.dequeue()) for source in (first, second)]
    with anyio.fail_after(TEST_S):
        async with flow.Session(), flow.Coordinator() as coordinator:
            await first.close()
            coordinator.start(flow.QueueRunner(queue, nodes))
            await second.enqueue(5)
            assert await queue.dequeue() == 5
            assert not await queue.is_closed()
            await second.close()
            await coordinator.join()
            assert await queue.is_closed()


async def test_an_error_stops_all_and_reaches_the_caller() -> None:
    """The first error cancels the block; each queue is closed, and who waits to put learns it."""
    source, queue, other = ints(), ints(1), ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session(), anyio.create_task_group() as tasks:
            with refused(
                flow.NodeFailed, "node 'double' on /job:localhost/task:0/device:CPU:0", "below zero"
            ) as caught:
                async with flow.Coordinator() as coordinator:
                    coordinator.start(pipeline(source, queue))
                    coordinator.start(endless(other))
                    await until(other, puts_waiting=2)
                    await queue.enqueue(1)
                    waits = start(tasks, queue.enqueue, 2)
                    await until(queue, puts_waiting=1)
                    await source.enqueue(-1)
                    await coordinator.join()
                    raise AssertionError("the block goes on")
            assert isinstance(caught[0].__cause__, ValueError)
            with refused(flow.OperationCancelled):
                await waits.outcome()
            for one in (queue, other):
                assert await one.is_closed()


async def test_an_error_of_the_block_is_the_blocks() -> None:
    """Runners are stopped, and it goes on as it is."""
    queue = ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            with pytest.raises(ZeroDivisionError):
                async with flow.Coordinator() as coordinator:
                    coordinator.start(endless(queue))
                    await until(queue, puts_waiting=2)
                    raise ZeroDivisionError
            assert await queue.is_closed()


async def test_leaving_the_block_stops_the_runners() -> None:
    """Their queues are closed, and what waited to be put is not in."""
    queue = ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            async with flow.Coordinator() as coordinator:
                coordinator.start(endless(queue))
                await until(queue, puts_waiting=2)
            assert await rest(queue) == [1]


async def test_a_stop_ends_the_block() -> None:
    """It is cancelled where it waits, and the program goes on behind it."""
    queue = ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            async with flow.Coordinator() as coordinator:
                coordinator.start(endless(queue))
                await until(queue, puts_waiting=2)
                coordinator.request_stop()
                await coordinator.join()
                raise AssertionError("the block goes on")
            assert await queue.is_closed()
            coordinator.request_stop()


async def test_a_cancel_from_outside_goes_on() -> None:
    """It ends the runners, and is not swallowed."""
    queue = ints(1)
    reached = False
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            with anyio.CancelScope() as scope:
                async with flow.Coordinator() as coordinator:
                    coordinator.start(endless(queue))
                    await until(queue, puts_waiting=2)
                    scope.cancel()
                    await coordinator.join()
                reached = True
            assert scope.cancelled_caught
            assert not reached
            assert await queue.is_closed()


async def test_lost_producers_are_an_error() -> None:
    """The data may be short: EndOfQueue that tells of them is raised."""
    source, queue = ints(), ints()
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            with pytest.raises(ZeroDivisionError):
                async with source.producer("loader"):
                    await source.enqueue(1)
                    raise ZeroDivisionError
            with pytest.raises(flow.EndOfQueue) as caught:
                async with flow.Coordinator() as coordinator:
                    coordinator.start(pipeline(source, queue))
                    await coordinator.join()
            assert [lost.name for lost in caught.value.lost_producers] == ["loader"]
            assert await queue.is_closed()


async def test_a_queue_that_somebody_closes_is_an_error() -> None:
    """semantics 1.13: only the end of the data upstream is an end."""
    queue = ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            with pytest.raises(flow.QueueClosed):
                async with flow.Coordinator() as coordinator:
                    coordinator.start(endless(queue))
                    await until(queue, puts_waiting=2)
                    await queue.close(cancel_pending_enqueues=True)
                    await coordinator.join()


async def test_a_queue_that_is_closed_already_may_end() -> None:
    """Whoever closes it at the end of the data does what the runner would."""
    source, queue = ints(), ints()
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            await source.close()
            await queue.close()
            async with flow.Coordinator() as coordinator:
                coordinator.start(pipeline(source, queue))
                await coordinator.join()


async def test_a_stage_feeds_the_next() -> None:
    """Several runners: the end of the data goes through all stages."""
    queues = [ints(2) for _ in range(4)]
    with anyio.fail_after(TEST_S):
        async with flow.Session(), flow.Coordinator() as coordinator:
            for source, queue in itertools.pairwise(queues):
                coordinator.start(pipeline(source, queue))
            async with queues[0].producer():
                await queues[0].enqueue_many([1, 2])
            assert sorted(await rest(queues[-1])) == [8, 16]
            await coordinator.join()


async def test_runners_may_be_started_one_after_the_other() -> None:
    """A join waits for those that run now."""
    source, first, second = ints(), ints(), ints(1)
    with anyio.fail_after(TEST_S):
        async with flow.Session(), flow.Coordinator() as coordinator:
            await source.close()
            coordinator.start(pipeline(source, first))
            await coordinator.join()
            await coordinator.join()
            coordinator.start(endless(second))
            async with anyio.create_task_group() as tasks:
                joins = start(tasks, coordinator.join)
                await until(second, puts_waiting=2)
                assert not joins.is_done
                assert await joins.cancel()


async def test_the_queue_may_be_on_a_server(folder: str) -> None:
    """The graph runs in an embedded session, and the runner closes the queue where it is."""
    source, queue = ints(), ints(shared_name="there")
    with anyio.fail_after(TEST_S):
        async with (
            flow.Server({"local": [f"ipc://{folder}/s"]}) as server,
            flow.Session(server.address) as there,
            flow.Session("") as here,
        ):
            await source.enqueue_many(range(5))
            await source.close()
            async with flow.Coordinator() as coordinator:
                coordinator.start(pipeline(source, queue.on(there)), here)
                await coordinator.join()
            assert sorted(await rest(queue.on(there))) == [2 * x for x in range(5)]


async def test_a_session_that_is_closed_ends_its_runners() -> None:
    """With its error, which does not hang on the queue that cannot be closed any more."""
    queue = ints(1)
    with anyio.fail_after(TEST_S), pytest.raises(flow.SessionClosed):
        async with flow.Coordinator() as coordinator:
            async with flow.Session():
                coordinator.start(endless(queue))
                await until(queue, puts_waiting=2)
            await coordinator.join()


@pytest.mark.parametrize("nodes", [[], ["enqueue"], [None]])
async def test_a_runner_needs_nodes(nodes: Any) -> None:
    """One at least, and nothing else."""
    with refused(flow.GraphError, "needs one or more enqueue nodes"):
        flow.QueueRunner(ints(), nodes)


async def test_a_coordinator_is_entered_once() -> None:
    """Nothing starts outside of its block."""
    runner = endless(ints())
    coordinator = flow.Coordinator()
    with refused(flow.SessionError, "enter the coordinator first"):
        coordinator.start(runner)
    with anyio.fail_after(TEST_S):
        async with coordinator:
            with refused(flow.NoSession):
                coordinator.start(runner)
            with refused(flow.SessionError, "entered before"):
                await coordinator.__aenter__()
            await coordinator.join()
    with refused(flow.SessionError, "enter the coordinator first"):
        coordinator.start(runner)
    with refused(flow.SessionError, "entered before"):
        await coordinator.__aenter__()
