"""Checks of what TensorFlow does not have: semantics 0.3 and 0.4 (bytes, producers, batches, writers)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import numpy as np

from aioflow.client import FIFOQueue, PriorityQueue, Queue, RandomShuffleQueue
from aioflow.errors import EndOfQueue, QueueClosed, QueueError, SpecMismatch
from aioflow.testing._queue_stage import fresh_name, ints, refused, start, until

if TYPE_CHECKING:
    from aioflow.testing._queue_stage import OpenSession

# 0.4 capacity_bytes


async def bytes_make_a_put_wait(open_session: OpenSession) -> None:
    """Semantics 0.4: a put waits while the bytes held would exceed capacity_bytes, however few elements there are."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(100, capacity_bytes=24)
        put = start(tasks, q.enqueue_many, [1, 2, 3, 4])
        await until(q, puts_waiting=1, size=3, size_bytes=24)
        assert await q.dequeue() == 1
        await put.outcome()
        await until(q, size=3, size_bytes=24)


async def one_larger_element_may_enter_an_empty_queue(open_session: OpenSession) -> None:
    """Semantics 0.4: one element larger than the cap may enter an empty queue, and then others wait."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = FIFOQueue(10, "uint8", capacity_bytes=10)
        await q.enqueue(np.ones(50, np.uint8))
        put = start(tasks, q.enqueue, np.ones(50, np.uint8))
        await until(q, puts_waiting=1, size=1, size_bytes=50)
        await q.dequeue()
        await put.outcome()
        await until(q, size=1, size_bytes=50)


async def a_reserve_must_fit_into_the_bytes(open_session: OpenSession) -> None:
    """Semantics 0.4: a reserve, or a PriorityQueue's n, that can never fit is refused and says what bytes it needs."""
    async with open_session():
        with refused(SpecMismatch, "min_after_dequeue=4", "40 bytes", "capacity_bytes is 39"):
            RandomShuffleQueue(10, 4, "int64", (), capacity_bytes=39)
        with refused(SpecMismatch, "48 bytes", "capacity_bytes is 40"):
            await PriorityQueue(10, "int64", (), capacity_bytes=40).dequeue_many(3)


async def a_put_that_bytes_block_for_ever_fails(open_session: OpenSession) -> None:
    """Semantics 0.4: when bytes alone block every put and the reserve every get, the put fails and names the cap."""
    async with open_session():
        q = RandomShuffleQueue(10, 2, "uint8", capacity_bytes=10)
        await q.enqueue(np.ones(8, np.uint8))
        with refused(QueueError, "capacity_bytes=10"):
            await q.enqueue(np.ones(8, np.uint8))
        await q.enqueue(np.ones(2, np.uint8))
        assert await q.size() == 2


# 0.4 producer()


async def the_last_producer_closes_the_queue(open_session: OpenSession) -> None:
    """Semantics 0.4: when the last registered producer has left the queue closes, in its turn as by close()."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        async with q.producer("b"):
            async with q.producer("a"):
                assert sorted((await q.stats()).producers) == ["a", "b"]
                await q.enqueue_many([1, 2])
                put = start(tasks, q.enqueue, 3)
                await until(q, puts_waiting=1)
            assert not await q.is_closed()
        await until(q, puts_waiting=2, is_closed=False, producers=())
        assert await q.dequeue() == 1
        await put.outcome()
        await until(q, is_closed=True)
        assert (await q.dequeue_up_to(5)).tolist() == [2, 3]
        with refused(EndOfQueue) as caught:
            await q.dequeue()
        assert caught[0].lost_producers == ()  # type: ignore[attr-defined]


async def the_number_of_producers_is_waited_for(open_session: OpenSession) -> None:
    """Semantics 0.4: with producers=n, n distinct names must have registered before the last one's leaving closes."""
    async with open_session():
        q = ints(producers=2)
        for _ in range(2):
            async with q.producer("a"):
                pass
            assert not await q.is_closed()
        async with q.producer("b"):
            assert not await q.is_closed()
        assert await q.is_closed()


async def a_failed_producer_is_reported(open_session: OpenSession) -> None:
    """Semantics 0.4: a producer that leaves by an exception is named, with its traceback, to whoever finds the end."""
    async with open_session():
        q = ints()
        with refused(ZeroDivisionError):
            async with q.producer("fails"):
                await q.enqueue_many([1, 2])
                raise ZeroDivisionError("on purpose")
        assert await q.is_closed()
        assert await q.dequeue() == 1
        seen: list[int] = []
        with refused(EndOfQueue) as caught:
            async for batch in q.batches(5):
                seen += batch.tolist()
        assert seen == [2]
        (end,) = caught
        assert isinstance(end, EndOfQueue)
        (lost,) = end.lost_producers
        assert (lost.name, lost.reason) == ("fails", "ZeroDivisionError: on purpose")
        assert "Traceback" in lost.traceback
        with refused(EndOfQueue):
            await q.dequeue()


async def leaving_a_closed_queue_is_fine(open_session: OpenSession) -> None:
    """Semantics 0.4: the close of the last one's leaving is skipped on a closed queue; a producer may join one."""
    async with open_session():
        q = ints()
        async with q.producer():
            await q.enqueue(1)
            await q.close()
            async with q.producer():
                with refused(QueueClosed):
                    await q.enqueue(2)
        assert await q.dequeue() == 1


async def leaving_does_not_wait_for_the_close(open_session: OpenSession) -> None:
    """Semantics 0.4: leaving waits for the answer, not for the close, which takes its turn behind a blocked put."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue(1)
        async with q.producer():
            put = start(tasks, q.enqueue, 2)
            await until(q, puts_waiting=1)
        await until(q, puts_waiting=2, is_closed=False)
        assert [await q.dequeue(), await q.dequeue()] == [1, 2]
        await put.outcome()
        await until(q, is_closed=True)


# 0.4 batches


async def batches_end_with_the_queue(open_session: OpenSession) -> None:
    """Semantics 0.4: batches(n) is dequeue_up_to(n) again and again; it ends when the queue is closed and drained."""
    async with open_session():
        for drop in (False, True):
            q = ints(100)
            await q.enqueue_many(list(range(10)))
            await q.close()
            batches = q.batches(4, drop_remainder=drop)
            got = [batch.tolist() async for batch in batches]
            assert got == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]][: 2 if drop else 3]
            assert [batch async for batch in batches] == []
            assert await q.size() == 0


async def iteration_gives_single_elements(open_session: OpenSession) -> None:
    """Semantics 0.4: iteration over the queue gives elements as dequeue() does, and ends as batches does."""
    async with open_session():
        q = FIFOQueue(100, ["int64", "str"])
        for i in range(40):
            await q.enqueue((np.arange(i), str(i)))
        await q.close()
        got = [(len(numbers), text) async for numbers, text in q]
        assert got == [(i, str(i)) for i in range(40)]


async def batches_of_none_are_refused(open_session: OpenSession) -> None:
    """Batches: n = 0 would never end, and a queue without shapes gives none: both are refused."""
    async with open_session():
        with refused(SpecMismatch, "batches of 0"):
            ints().batches(0)
        with refused(SpecMismatch, "without shapes"):
            await anext(FIFOQueue(5, "int64").batches(2))


async def what_is_ahead_counts_as_in_the_queue(open_session: OpenSession) -> None:
    """Semantics 0.4: what requests ahead hold is counted by size() and against the capacity as if in the queue."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(6)
        await q.enqueue_many(list(range(6)))
        async with q.batches(2) as batches:
            assert (await anext(batches)).tolist() == [0, 1]
            assert await q.size() == 4
            put = start(tasks, q.enqueue_many, [6, 7, 8])
            await until(q, puts_waiting=1, size=6)
            assert (await anext(batches)).tolist() == [2, 3]
            await put.outcome()
            assert await q.size() == 5
        await until(q, ahead=0, size=5)
        assert (await q.dequeue_many(5)).tolist() == [4, 5, 6, 7, 8]


async def leaving_gives_back_what_is_ahead(open_session: OpenSession) -> None:
    """Semantics 0.4: what was sent ahead goes back in its order when the iterator is left, however that happens."""

    async def by_break(q: Queue) -> None:
        async for _ in q.batches(2):
            break

    async def by_close(q: Queue) -> None:
        batches = q.batches(2)
        await anext(batches)
        await batches.aclose()
        await batches.aclose()
        assert [batch async for batch in batches] == []

    async def by_an_error(q: Queue) -> None:
        with refused(ZeroDivisionError):
            async with q.batches(2) as batches:
                await anext(batches)
                raise ZeroDivisionError

    async with open_session():
        q = ints(100)
        await q.enqueue_many(list(range(20)))
        for number, leave in enumerate((by_break, by_close, by_an_error), start=1):
            await leave(q)
            await until(q, ahead=0, unacknowledged=0, size=20 - 2 * number)
        assert (await q.dequeue_many(14)).tolist() == list(range(6, 20))


async def a_cancelled_step_gives_back(open_session: OpenSession) -> None:
    """Semantics 0.2: a cancelled step took nothing, what was ahead goes back, and the iterator can go on."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(100)
        batches = q.batches(3)
        await q.enqueue_many([0, 1, 2, 3])
        assert (await anext(batches)).tolist() == [0, 1, 2]
        step = start(tasks, batches.__anext__)
        await until(q, gets_waiting=1)
        assert await step.cancel()
        await until(q, gets_waiting=0, ahead=0, size=1)
        await q.enqueue_many([4, 5])
        assert (await anext(batches)).tolist() == [3, 4, 5]
        await batches.aclose()


async def a_waiting_get_recalls_what_is_ahead(open_session: OpenSession) -> None:
    """Semantics 0.4: what a consumer holds ahead is recalled when a get waits, on an open queue and on a closed one."""
    async with open_session():
        for closes in (False, True):
            q = ints(100)
            await q.enqueue_many(list(range(6)))
            batches = q.batches(2)
            assert (await anext(batches)).tolist() == [0, 1]
            if closes:
                await q.close()
            assert [await q.dequeue() for _ in range(4)] == [2, 3, 4, 5]
            if closes:
                assert [batch async for batch in batches] == []
            await batches.aclose()


async def writers_group_and_flush(open_session: OpenSession) -> None:
    """Writer: what was written is accepted, in order and complete, when the block is left; of any shape and number."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = FIFOQueue(7, ["int64", "str"])

        async def write() -> None:
            async with q.producer(), q.writer(batch=4) as writer:
                for i in range(50):
                    await writer.write((np.arange(i % 3), str(i)))

        writing = start(tasks, write)
        got = [(len(numbers), text) async for numbers, text in q]
        assert got == [(i % 3, str(i)) for i in range(50)]
        await writing.outcome()


async def a_writer_tells_of_a_closed_queue(open_session: OpenSession) -> None:
    """Writer: the error of a group surfaces at a later write or at the exit; a wrong value at once."""
    async with open_session():
        q = ints()
        with refused(SpecMismatch, "component 0"):
            async with q.writer() as writer:
                await writer.write("x")
        await q.close()
        with refused(QueueClosed):
            async with q.writer(batch=2) as writer:
                await writer.write(1)
        with refused(QueueClosed):
            async with q.writer(batch=1) as writer:
                for i in range(100):
                    await writer.write(i)


async def a_written_element_goes_without_another(open_session: OpenSession) -> None:
    """Writer: a group that does not fill up is sent after the delay."""
    async with open_session():
        q = ints()
        async with q.writer(batch=1000) as writer:
            await writer.write(5)
            assert await q.dequeue() == 5


# 0.3, 0.2: cancelled at random moments


async def random_cancels_lose_nothing(open_session: OpenSession) -> None:
    """Semantics 0.2 and 0.3: puts and gets cancelled at random moments lose nothing and double nothing."""
    chance = random.Random(5)  # noqa: S311 - moments to cancel at, no secret
    accepted: list[int] = []
    taken: list[int] = []
    async with open_session():
        q = ints(4, shared_name=fresh_name())
        numbers = iter(range(1_000_000))

        async def put(turns: int) -> None:
            number = next(numbers)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_after, scope, turns)
                    await q.enqueue(number)
                    accepted.append(number)

        async def get(turns: int, n: int) -> None:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_cancel_after, scope, turns)
                    taken.extend((await q.dequeue_up_to(n)).tolist())

        for _ in range(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(put, chance.randrange(30))
                tasks.start_soon(get, chance.randrange(30), chance.choice((1, 2, 3)))
                tasks.start_soon(get, chance.randrange(30), 1)
        await until(q, puts_waiting=0, gets_waiting=0, unacknowledged=0)
        await q.close()
        async for batch in q.batches(3):
            taken.extend(batch.tolist())
    assert sorted(taken) == sorted(accepted)


async def _cancel_after(scope: anyio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


FLOW_CHECKS = (
    bytes_make_a_put_wait,
    one_larger_element_may_enter_an_empty_queue,
    a_reserve_must_fit_into_the_bytes,
    a_put_that_bytes_block_for_ever_fails,
    the_last_producer_closes_the_queue,
    the_number_of_producers_is_waited_for,
    a_failed_producer_is_reported,
    leaving_a_closed_queue_is_fine,
    leaving_does_not_wait_for_the_close,
    batches_end_with_the_queue,
    iteration_gives_single_elements,
    batches_of_none_are_refused,
    what_is_ahead_counts_as_in_the_queue,
    leaving_gives_back_what_is_ahead,
    a_cancelled_step_gives_back,
    a_waiting_get_recalls_what_is_ahead,
    writers_group_and_flush,
    a_writer_tells_of_a_closed_queue,
    a_written_element_goes_without_another,
    random_cancels_lose_nothing,
)
