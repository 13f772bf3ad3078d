"""Batches ask ahead, hand over in order, and give back in order."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.errors import ConnectionLost, EndOfQueue

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def answered(queue: Any, number: int, *rows: int) -> None:
    """Answer the call of this number when it is there."""
    with anyio.fail_after(TEST_S):
        while len(queue.host.calls) <= number:
            await anyio.lowlevel.checkpoint()
        queue.host.calls[number].answer(*rows)


async def step(queue: Any, batches: Any, number: int, *rows: int) -> list[int]:
    """Take a step for which the call of this number is answered."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answered, queue, number, *rows)
        batch: list[int] = (await anext(batches)).tolist()
    return batch


async def test_requests_ahead_are_kept_under_way(fake_queue: Any) -> None:
    """A step takes the oldest request, promoted while it waits, acknowledges it and then asks for another."""
    batches = fake_queue.batches(3, prefetch=2)
    assert await step(fake_queue, batches, 0, 1, 2, 3) == [1, 2, 3]
    assert fake_queue.host.log == ["ask 1", "ask 2", "promote ask 1", "acknowledge ask 1", "ask 3"]
    fake_queue.host.calls[1].answer(4, 5, 6)
    assert (await anext(batches)).tolist() == [4, 5, 6]
    assert fake_queue.host.log[5:] == ["acknowledge ask 2", "ask 4"]


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
    assert fake_queue.host.log[2:] == ["ask 5", "ask 6", "acknowledge ask 2", "ask 7"]


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
