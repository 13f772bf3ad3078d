"""Batches ask ahead, hand over in order, and give back in order."""

from __future__ import annotations

import gc
import logging
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.client._batches import Batches
from aioflow.errors import ConnectionLost, EndOfQueue
from aioflow.testing._queue_stage import ints

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def answered(queue: Any, number: int, *rows: int) -> None:
    """Answer the call of this number when it is there."""
    with anyio.fail_after(TEST_S):
        while len(queue.host.calls) <= number:
            await anyio.lowlevel.checkpoint()
        queue.host.calls[number].answer(*rows)


async def step(queue: Any, batches: Any, number: int, *rows: int) -> Any:
    """Take a step for which the call of this number is answered."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answered, queue, number, *rows)
        batch: Any = (await anext(batches)).tolist()
    return batch


async def test_requests_ahead_are_kept_under_way(fake_queue: Any) -> None:
    """A step takes the oldest request, promoted while it waits, acknowledges it and then asks for another."""
    batches = fake_queue.batches(3, prefetch=2)
    assert await step(fake_queue, batches, 0, 1, 2, 3) == [1, 2, 3]
    assert fake_queue.host.log == ["ask 1", "ask 2", "promote ask 1", "take [1, 2, 3] of ask 1", "ask 3"]
    fake_queue.host.calls[1].answer(4, 5, 6)
    assert (await anext(batches)).tolist() == [4, 5, 6]
    assert fake_queue.host.log[5:] == ["take [4, 5, 6] of ask 2", "ask 4"]


async def test_without_prefetch_it_only_gets(fake_queue: Any) -> None:
    """prefetch=0 asks for nothing ahead."""
    batches = fake_queue.batches(3, prefetch=0)
    assert await step(fake_queue, batches, 0, 1, 2) == [1, 2]
    assert fake_queue.host.log == ["get 3", "acknowledge get 3"]


async def test_leaving_gives_back_in_order(fake_queue: Any) -> None:
    """However it is left, what is ahead is withdrawn in order, so that a get that waits is served in order."""
    batches = fake_queue.batches(1, prefetch=3)
    await step(fake_queue, batches, 0, 1)
    await batches.aclose()
    assert fake_queue.host.log[-3:] == ["withdraw ask 2", "withdraw ask 3", "withdraw ask 4"]
    await batches.aclose()
    assert [batch async for batch in batches] == []
    assert len(fake_queue.host.log) == 9


async def test_a_dropped_iterator_gives_back(fake_queue: Any) -> None:
    """A `break` drops the iterator without a word: the host does not keep it, and all is given back."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answered, fake_queue, 0, 1)
        async for _ in fake_queue.batches(1):
            break
    gc.collect()
    assert fake_queue.host.log[-2:] == ["withdraw ask 2", "withdraw ask 3"]
    fake_queue.host.calls[1].recall()


async def test_an_error_in_the_block_gives_back(fake_queue: Any) -> None:
    """`async with` leaves the iterator on an error, too."""
    with pytest.raises(ZeroDivisionError):
        async with fake_queue.batches(1) as batches:
            await step(fake_queue, batches, 0, 1)
            raise ZeroDivisionError
    assert fake_queue.host.log[-2:] == ["withdraw ask 2", "withdraw ask 3"]


async def test_a_recall_gives_back_from_there_on(fake_queue: Any) -> None:
    """A recall of one request gives it back with those behind it; the next step asks anew."""
    batches = fake_queue.batches(1, prefetch=3)
    await step(fake_queue, batches, 0, 1)
    for number in (1, 2, 3):
        fake_queue.host.calls[number].answer(number + 1)
    fake_queue.host.log.clear()
    fake_queue.host.calls[2].recall()
    assert fake_queue.host.log == ["withdraw ask 3", "withdraw ask 4"]
    fake_queue.host.calls[2].recall()
    assert len(fake_queue.host.log) == 2
    assert (await anext(batches)).tolist() == [2]
    assert fake_queue.host.log[2:] == ["take [2] of ask 2", "ask 5", "ask 6", "ask 7"]


async def test_a_recall_does_not_take_from_a_waiting_step(fake_queue: Any) -> None:
    """A recall between the arrival of the rows and the step's resumption is too late: the step has them."""
    batches = fake_queue.batches(1, prefetch=2)
    got = []

    async def take() -> None:
        got.append((await anext(batches)).tolist())

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            fake_queue.host.calls[0].answer(7)
            fake_queue.host.calls[1].answer(8)
            fake_queue.host.calls[1].recall()
            fake_queue.host.calls[0].recall()
    assert got == [[7]]
    assert "withdraw ask 1" not in fake_queue.host.log
    assert "withdraw ask 2" in fake_queue.host.log


async def test_a_cancelled_step_gives_back_and_can_go_on(fake_queue: Any) -> None:
    """What the cancelled step waited for goes back, all that is ahead before it, and a later step asks anew."""
    batches = fake_queue.batches(1, prefetch=2)
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, batches)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert sorted(fake_queue.host.log[-2:]) == ["withdraw ask 1", "withdraw ask 2"]
    assert await step(fake_queue, batches, 2, 5) == [5]


async def test_the_end_ends_it_for_good(fake_queue: Any) -> None:
    """EndOfQueue gives back what is under way and ends the iterator; with lost producers it is raised, once."""
    batches = fake_queue.batches(1)
    for lost in ((), (flow.LostProducer("who", "why"),)):
        fake_queue.host.calls.clear()
        batches = fake_queue.batches(1)
        async with anyio.create_task_group() as tasks:

            async def end(lost: tuple[flow.LostProducer, ...] = lost) -> None:
                while not fake_queue.host.calls:
                    await anyio.lowlevel.checkpoint()
                fake_queue.host.calls[0].waiter.fail(EndOfQueue("over", lost_producers=lost))

            tasks.start_soon(end)
            with pytest.raises(EndOfQueue if lost else StopAsyncIteration):
                await anext(batches)
        assert fake_queue.host.log[-1].startswith("withdraw")
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_a_batch_in_hand_is_not_lost_to_the_next_request(fake_queue: Any) -> None:
    """When asking for more fails, the batch that was just acknowledged is still handed over."""
    batches = fake_queue.batches(1, prefetch=1)

    async def answer() -> None:
        while not fake_queue.host.calls:
            await anyio.lowlevel.checkpoint()
        fake_queue.host.error = ConnectionLost("gone")
        fake_queue.host.calls[0].answer(3)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        assert (await anext(batches)).tolist() == [3]
    with pytest.raises(ConnectionLost):
        await anext(batches)


# Requests for runs


async def test_a_delivery_of_runs_is_handed_over_run_by_run(fake_queue: Any) -> None:
    """Each step takes a batch of it; the next request goes when the last batch is taken, which may be short."""
    batches = fake_queue.batches(2, prefetch=1)
    assert await step(fake_queue, batches, 0, 1, 2, 3, 4, 5) == [1, 2]
    assert fake_queue.host.asked == (2, 125)
    assert (await anext(batches)).tolist() == [3, 4]
    assert fake_queue.host.log[-1] == "take [3, 4] of ask 1"
    assert (await anext(batches)).tolist() == [5]
    assert fake_queue.host.log[-2:] == ["take [5] of ask 1", "ask 2"]


async def test_elements_of_a_delivery(fake_queue: Any) -> None:
    """Iteration takes single elements from deliveries of many, with two requests under way."""
    elements = aiter(fake_queue)
    assert await step(fake_queue, elements, 0, 7, 8, 9) == 7
    assert [int(await anext(elements)) for _ in range(2)] == [8, 9]
    assert fake_queue.host.asked == (1, 250)
    assert fake_queue.host.log[:2] == ["ask 1", "ask 2"]
    assert fake_queue.host.log[-2:] == ["take [9] of ask 1", "ask 3"]


async def _asked(fake_queue: Any, steps: Batches) -> tuple[tuple[int, int], int]:
    """Return for how much the first step asks at once, and how often."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, steps)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    return fake_queue.host.asked, sum(entry.startswith("ask") for entry in fake_queue.host.log)


@pytest.mark.parametrize(
    ("queue", "asked", "requests"),
    [
        pytest.param(flow.FIFOQueue(4, "int64", ()), (1, 1), 16, id="small capacity"),
        pytest.param(flow.FIFOQueue(16, "int64", ()), (1, 4), 4, id="a quarter"),
        pytest.param(flow.FIFOQueue(-1, "int64", (), capacity_bytes=10_000), (1, 312), 2, id="a quarter in bytes"),
        pytest.param(flow.FIFOQueue(-1, "int64", (), capacity_bytes=10**8), (1, 512), 2, id="small"),
        pytest.param(flow.FIFOQueue(1000, "uint8", (224, 224, 3)), (1, 6), 2, id="large"),
        pytest.param(flow.FIFOQueue(1000, "float32", (1000, 1000)), (1, 1), 2, id="huge"),
        pytest.param(flow.FIFOQueue(1000, "str", ()), (1, 1), 16, id="strings"),
        pytest.param(flow.PaddingFIFOQueue(1000, ["int64"], [[None]]), (1, 1), 16, id="padded"),
        pytest.param(flow.FIFOQueue(1000, "int64"), (1, 1), 16, id="any shape"),
    ],
)
async def test_how_much_is_asked_for(fake_queue: Any, queue: Any, asked: tuple[int, int], requests: int) -> None:
    """A request brings about a megabyte at most, a quarter of the capacity, and one by one what varies."""
    fake_queue._definition = queue.definition
    elements = aiter(fake_queue)
    assert await _asked(fake_queue, elements) == (asked, requests)


@pytest.mark.parametrize(
    ("queue", "batch", "asked", "requests"),
    [
        pytest.param(flow.FIFOQueue(1000, "uint8", (224, 224, 3)), {"n": 64, "prefetch": 2}, (64, 1), 2, id="two"),
        pytest.param(flow.FIFOQueue(1000, "uint8", (224, 224, 3)), {"n": 64, "prefetch": 4}, (64, 2), 2, id="four"),
        pytest.param(flow.FIFOQueue(1000, "uint8", (224, 224, 3)), {"n": 64, "prefetch": 9}, (64, 3), 3, id="nine"),
        pytest.param(flow.FIFOQueue(200, "uint8", (224, 224, 3)), {"n": 64, "prefetch": 4}, (64, 1), 4, id="a quarter"),
        pytest.param(flow.FIFOQueue(-1, "int64", ()), {"n": 64, "prefetch": 4}, (64, 128), 4, id="small"),
        pytest.param(flow.FIFOQueue(1000, "float32", (1000, 1000)), {"n": 1, "single": True}, (1, 8), 2, id="elements"),
        pytest.param(flow.FIFOQueue(1000, "float32", (5000, 5000)), {"n": 1, "single": True}, (1, 1), 2, id="huge"),
    ],
)
async def test_how_much_is_asked_for_on_one_host(
    fake_queue: Any, queue: Any, batch: dict[str, Any], asked: tuple[int, int], requests: int
) -> None:
    """Large batches and elements that are asked for ahead come in two messages, of 32 MiB at most."""
    fake_queue._definition = queue.definition
    fake_queue.host.is_local = True
    steps = Batches(fake_queue, **batch)
    assert await _asked(fake_queue, steps) == (asked, requests)


@pytest.mark.parametrize(
    ("queue", "asked"),
    [
        pytest.param(flow.PaddingFIFOQueue(1000, ["int64"], [[None]]), (2, 125), id="numbers"),
        pytest.param(flow.FIFOQueue(1000, "str", ()), (2, 125), id="strings"),
        pytest.param(flow.PaddingFIFOQueue(1000, ["int64"], [[None]], capacity_bytes=127), (2, 1), id="few bytes"),
        pytest.param(flow.PaddingFIFOQueue(1000, ["int64"], [[None]], capacity_bytes=1 << 31), (2, 1), id="many bytes"),
        pytest.param(flow.PaddingFIFOQueue(1000, ["str"], [[None]]), (2, 1), id="padded strings"),
    ],
)
async def test_what_varies_is_sized_up_by_what_has_come(fake_queue: Any, queue: Any, asked: tuple[int, int]) -> None:
    """The first requests are for one batch; the others for as many as are likely to make a message worth its way."""
    fake_queue._definition = queue.definition
    batches = fake_queue.batches(2, prefetch=1)
    assert await step(fake_queue, batches, 0, 1, 2) == [1, 2]
    assert fake_queue.host.asked == asked


async def test_a_recall_gives_back_what_is_left_of_a_delivery(fake_queue: Any) -> None:
    """Rows that were handed over are gone; the rest goes back before what came after it."""
    batches = fake_queue.batches(1, prefetch=2)
    await step(fake_queue, batches, 0, 1, 2, 3)
    fake_queue.host.calls[1].answer(4, 5)
    fake_queue.host.calls[0].recall()
    assert fake_queue.host.log[-2:] == ["withdraw ask 1", "withdraw ask 2"]
    assert await step(fake_queue, batches, 2, 2) == [2]


async def test_a_recall_under_a_step_waits_for_it(fake_queue: Any) -> None:
    """The step has its batch; the rest of that delivery goes back first, and then what came after it."""
    batches = fake_queue.batches(1, prefetch=2)

    async def recall() -> None:
        fake_queue.host.calls[0].answer(1, 2, 3)
        fake_queue.host.calls[1].answer(4, 5)
        fake_queue.host.calls[0].recall()
        fake_queue.host.calls[1].recall()

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:

            async def take() -> None:
                assert (await anext(batches)).tolist() == [1]

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            await recall()
    assert fake_queue.host.log[-3:] == ["take [1] of ask 1", "withdraw ask 1", "withdraw ask 2"]
    assert await step(fake_queue, batches, 2, 2) == [2]


async def test_rows_that_a_reconnect_took_back(fake_queue: Any) -> None:
    """A request that lost its rows is waited for again, between steps and under one."""
    batches = fake_queue.batches(1, prefetch=1)
    await step(fake_queue, batches, 0, 1, 2)
    fake_queue.host.calls[0].lose()
    got = []

    async def take() -> None:
        got.append((await anext(batches)).tolist())

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            fake_queue.host.calls[0].answer(2)
            fake_queue.host.calls[0].lose()
            await anyio.wait_all_tasks_blocked()
            assert not got
            fake_queue.host.calls[0].answer(2, 3)
    assert got == [[2]]
    assert fake_queue.host.log[-2:] == ["promote ask 1", "take [2] of ask 1"]


async def test_a_step_of_an_ended_session_gives_back(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in hand of a session that is over are not handed over: the step raises why."""
    batches = fake_queue.batches(1, prefetch=2)
    await step(fake_queue, batches, 0, 1, 2)

    def take(_: int) -> None:
        raise ConnectionLost("gone")

    monkeypatch.setattr(fake_queue.host.calls[0], "take", take)
    with pytest.raises(ConnectionLost):
        await anext(batches)
    assert fake_queue.host.log[-1] == "withdraw ask 2"
    assert "withdraw ask 1" in fake_queue.host.log


async def test_iteration_gives_others_a_turn(fake_queue: Any) -> None:
    """A loop over rows in hand lets other tasks run, and meets its cancellation."""
    elements = aiter(fake_queue)
    await step(fake_queue, elements, 0, *range(200_000))
    with anyio.move_on_after(0.01) as scope:
        while True:
            await anext(elements)
    assert scope.cancelled_caught


# An end before anything came


async def iterate(queue: flow.Queue) -> int:
    """Count what is left of a queue."""
    return len([element async for element in queue])


async def test_the_end_of_an_earlier_run_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A session that meets a drained queue, and was never handed anything of it, logs a warning; who was does not."""
    q = ints(shared_name="train")
    async with flow.Server({"local": ["inproc://earlier"]}) as server:
        async with flow.Session(server), q.producer():
            await q.enqueue(1)
        async with flow.Session(server):
            assert await iterate(q) == 1
            assert await iterate(q) == 0
            assert not caplog.records
        async with flow.Session(server):
            assert await iterate(q) == 0
            assert [[] async for _ in q.batches(2, prefetch=0)] == []
    assert {(record.name, record.levelno) for record in caplog.records} == {("aioflow.session", logging.WARNING)}
    first, second = (record.getMessage() for record in caplog.records)
    assert first == second
    assert first.startswith("queue 'train' was closed and drained before this session was handed anything of it")


async def test_an_end_that_is_no_surprise_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """After a dequeue, of a queue whose producer was here, of a private one, and where a producer was lost."""
    taken, joined, private = ints(shared_name="taken"), ints(shared_name="joined"), ints()
    async with flow.Session():
        await taken.enqueue(1)
        await taken.close()
        await taken.dequeue()
        async with joined.producer():
            pass
        await private.close()
        for queue in (taken, joined, private):
            assert await iterate(queue) == 0
        lost = ints(shared_name="lost")
        with pytest.raises(ZeroDivisionError):
            async with lost.producer():
                raise ZeroDivisionError
        with pytest.raises(EndOfQueue):
            await iterate(lost)
    assert not caplog.records
