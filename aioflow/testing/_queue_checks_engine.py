"""Checks of the engine that all kinds of queues share: semantics 1.1 to 1.4 (waiting, closing, cancelling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from aioflow.errors import EndOfQueue, OperationCancelled, QueueClosed, SpecMismatch
from aioflow.testing._queue_stage import ints, refused, start, until

if TYPE_CHECKING:
    from aioflow.testing._queue_stage import OpenSession

# 1.1 The engine


async def gets_are_served_in_order(open_session: OpenSession) -> None:
    """Semantics 1.1: a later small dequeue never overtakes an earlier dequeue_many that is still short."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        many = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1)
        one = start(tasks, q.dequeue)
        await until(q, gets_waiting=2)
        await q.enqueue_many([1, 2])
        await until(q, gets_waiting=2, size=0)
        await q.enqueue(3)
        assert (await many.outcome()).tolist() == [1, 2, 3]
        assert not one.is_done
        await q.enqueue(4)
        assert await one.outcome() == 4


async def puts_are_served_in_order(open_session: OpenSession) -> None:
    """Semantics 1.1: a later small enqueue never overtakes an earlier one that waits."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        await q.enqueue_many([1, 2])
        first = start(tasks, q.enqueue_many, [3, 4, 5])
        await until(q, puts_waiting=1)
        second = start(tasks, q.enqueue, 6)
        await until(q, puts_waiting=2)
        assert await q.dequeue() == 1
        await until(q, puts_waiting=2, size=2)
        assert [await q.dequeue() for _ in range(5)] == [2, 3, 4, 5, 6]
        await first.outcome()
        await second.outcome()


async def an_enqueue_many_may_exceed_the_capacity(open_session: OpenSession) -> None:
    """Semantics 1.1: an enqueue_many larger than the capacity works if somebody dequeues, and never exceeds it."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        put = start(tasks, q.enqueue_many, list(range(6)))
        await until(q, puts_waiting=1, size=2)
        assert [await q.dequeue() for _ in range(6)] == list(range(6))
        await put.outcome()


async def a_dequeue_many_may_exceed_the_capacity(open_session: OpenSession) -> None:
    """Semantics 1.1: a dequeue_many of more than the capacity drains the queue as it fills."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        get = start(tasks, q.dequeue_many, 5)
        for i in range(5):
            await q.enqueue(i)
        assert (await get.outcome()).tolist() == list(range(5))


async def the_rows_of_an_enqueue_many_are_contiguous(open_session: OpenSession) -> None:
    """Semantics 1.1: nobody's element lands between the rows of an enqueue_many, although it waits half-way."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        start(tasks, q.enqueue_many, [1, 2, 3, 4])
        await until(q, puts_waiting=1)
        start(tasks, q.enqueue_many, [9, 9])
        await until(q, puts_waiting=2)
        assert [await q.dequeue() for _ in range(6)] == [1, 2, 3, 4, 9, 9]


async def a_waiting_get_has_removed_what_it_took(open_session: OpenSession) -> None:
    """Semantics 1.1: size() does not count what a waiting dequeue_many has taken, and nobody else can get it."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        get = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1)
        await q.enqueue_many([1, 2])
        assert await q.size() == 0
        other = start(tasks, q.dequeue)
        await until(q, gets_waiting=2)
        await q.enqueue_many([3, 4])
        assert (await get.outcome()).tolist() == [1, 2, 3]
        assert await other.outcome() == 4


async def one_operation_completes_several(open_session: OpenSession) -> None:
    """Semantics 1.1: one dequeue_many completes several waiting enqueues, one enqueue_many several waiting dequeues."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(3)
        await q.enqueue_many([0, 1, 2])
        for i in (3, 4, 5):
            start(tasks, q.enqueue, i)
            await until(q, puts_waiting=i - 2)
        assert (await q.dequeue_many(3)).tolist() == [0, 1, 2]
        await until(q, puts_waiting=0, size=3)
        assert (await q.dequeue_many(3)).tolist() == [3, 4, 5]
        gets = []
        for i in range(3):
            gets.append(start(tasks, q.dequeue))
            await until(q, gets_waiting=i + 1)
        await q.enqueue_many([6, 7, 8])
        assert [await get.outcome() for get in gets] == [6, 7, 8]


async def what_is_invalid_fails_at_once(open_session: OpenSession) -> None:
    """Semantics 1.1: an invalid operation fails at once and changes nothing, on a full, blocked or closed queue too."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue(1)
        put = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        for _ in range(2):
            with refused(SpecMismatch, "component 0", "int64[]"):
                await q.enqueue([1, 2])
            with refused(SpecMismatch):
                await q.enqueue_many([[1], [2]])
            with refused(SpecMismatch, "-1"):
                await q.dequeue_many(-1)
            await q.close(cancel_pending_enqueues=True)
        with refused(OperationCancelled):
            await put.outcome()
        assert await q.size() == 1
        assert await q.dequeue() == 1


async def size_and_is_closed_never_wait(open_session: OpenSession) -> None:
    """Semantics 1.1: size() and is_closed() pass both lists; size() does not count what blocked enqueues offer."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        await q.enqueue_many([1, 2])
        start(tasks, q.enqueue_many, [3, 4])
        await until(q, puts_waiting=1)
        assert (await q.size(), await q.is_closed()) == (2, False)
        assert (await q.dequeue_many(4)).tolist() == [1, 2, 3, 4]


# 1.2 Blocking and results


async def no_rows_succeed_at_once(open_session: OpenSession) -> None:
    """Semantics 1.2: enqueue_many of 0 rows is ok at once, even on a full, blocked or closed queue."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue_many([])
        await q.enqueue(1)
        put = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        await q.enqueue_many([])
        await q.close(cancel_pending_enqueues=True)
        await q.enqueue_many([])
        assert await q.size() == 1
        with refused(OperationCancelled):
            await put.outcome()


async def a_batch_of_none_is_empty(open_session: OpenSession) -> None:
    """Semantics 1.2: dequeue_many(0) and dequeue_up_to(0) give an empty batch at once, also closed and drained."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        get = start(tasks, q.dequeue)
        await until(q, gets_waiting=1)
        assert (await q.dequeue_many(0)).shape == (0,)
        await q.close()
        with refused(EndOfQueue):
            await get.outcome()
        for take in (q.dequeue_many, q.dequeue_up_to):
            batch = await take(0)
            assert (batch.shape, batch.dtype) == ((0,), "int64")


async def dequeue_up_to_waits_for_all_while_open(open_session: OpenSession) -> None:
    """Semantics 1.2: dequeue_up_to waits for the full n while the queue is open, and gives what is left once closed."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        await q.enqueue_many([1, 2])
        get = start(tasks, q.dequeue_up_to, 3)
        await until(q, gets_waiting=1, size=0)
        await q.enqueue(3)
        assert (await get.outcome()).tolist() == [1, 2, 3]
        await q.enqueue_many([4, 5])
        await q.close()
        assert (await q.dequeue_up_to(3)).tolist() == [4, 5]
        with refused(EndOfQueue):
            await q.dequeue_up_to(3)


async def a_negative_capacity_is_unbounded(open_session: OpenSession) -> None:
    """Semantics 1.2: any negative capacity means unbounded in elements, -5 the same as -1; 0 is refused (0.2)."""
    async with open_session():
        q = ints(-5, capacity_bytes=1_000_000)
        await q.enqueue_many(list(range(5000)))
        assert (await q.stats()).capacity == -1
        assert (await q.dequeue_many(5000)).tolist() == list(range(5000))
        with refused(SpecMismatch, "capacity is 0"):
            ints(0)


# 1.3 Closing


async def a_close_takes_its_turn(open_session: OpenSession) -> None:
    """Semantics 1.3: close() waits behind blocked enqueues, which still succeed; later enqueues fail."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue(1)
        before = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        close = start(tasks, q.close)
        await until(q, puts_waiting=2)
        after = start(tasks, q.enqueue, 3)
        await until(q, puts_waiting=3)
        assert not await q.is_closed()
        assert await q.dequeue() == 1
        await before.outcome()
        await close.outcome()
        with refused(QueueClosed, "closed"):
            await after.outcome()
        assert await q.is_closed()
        assert await q.dequeue() == 2


async def a_second_close_is_an_error(open_session: OpenSession) -> None:
    """Semantics 1.3: a second close() is an error, also while the first one waits and after a cancelling close."""
    async with open_session(), anyio.create_task_group() as tasks:
        q, other = ints(1), ints(1)
        await q.enqueue(1)
        put = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        first = start(tasks, q.close)
        await until(q, puts_waiting=2)
        second = start(tasks, q.close)
        await until(q, puts_waiting=3)
        await q.dequeue()
        await put.outcome()
        await first.outcome()
        with refused(QueueClosed, "already closed"):
            await second.outcome()
        with refused(QueueClosed, "already closed"):
            await q.close()
        await other.close(cancel_pending_enqueues=True)
        with refused(QueueClosed, "already closed"):
            await other.close()


async def a_cancelling_close_fails_every_waiting_put(open_session: OpenSession) -> None:
    """Semantics 1.3: close(True) jumps the list, fails each waiting put and plain close, and may be repeated."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        await q.enqueue(1)
        waiting = []
        calls: list[tuple[Any, tuple[Any, ...]]] = [(q.enqueue_many, ([2, 3, 4],)), (q.enqueue, (5,)), (q.close, ())]
        for number, (call, arguments) in enumerate(calls, start=1):
            waiting.append(start(tasks, call, *arguments))
            await until(q, puts_waiting=number)
        await q.close(cancel_pending_enqueues=True)
        for operation in waiting:
            with refused(OperationCancelled):
                await operation.outcome()
        assert waiting[0].notes == ["1 of 3 rows are in the queue and stay in"]
        assert await q.is_closed()
        await q.close(True)  # noqa: FBT003 - TensorFlow's
        assert (await q.dequeue_up_to(5)).tolist() == [1, 2]
        await q.close(True)  # noqa: FBT003 - TensorFlow's


async def a_closed_queue_refuses_puts(open_session: OpenSession) -> None:
    """Semantics 1.3: after a close each put raises QueueClosed, and a cancelling close is still ok."""
    async with open_session():
        q = ints()
        await q.enqueue(1)
        await q.close()
        with refused(QueueClosed, "closed"):
            await q.enqueue(2)
        with refused(QueueClosed, "closed"):
            await q.enqueue_many([2, 3])
        await q.close(cancel_pending_enqueues=True)
        assert await q.size() == 1


async def a_close_between_the_rows_keeps_those_in(open_session: OpenSession) -> None:
    """Semantics 1.2: rows of an enqueue_many that were in before the close stay in; a note gives their number."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        put = start(tasks, q.enqueue_many, list(range(5)))
        await until(q, puts_waiting=1)
        assert await q.dequeue() == 0
        await q.close(cancel_pending_enqueues=True)
        with refused(OperationCancelled):
            await put.outcome()
        assert put.notes == ["3 of 5 rows are in the queue and stay in"]
        assert (await q.dequeue_many(2)).tolist() == [1, 2]


async def a_short_dequeue_many_fails_without_a_loss(open_session: OpenSession) -> None:
    """Semantics 1.3: at a close a short dequeue_many fails and puts back to the front; the text says what misses."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        get = start(tasks, q.dequeue_many, 5)
        await until(q, gets_waiting=1)
        await q.enqueue_many([1, 2])
        assert await q.size() == 0
        await q.close()
        with refused(EndOfQueue, "requested 3"):
            await get.outcome()
        assert await q.size() == 2
        with refused(EndOfQueue, "requested 1", "current size 2"):
            await q.dequeue_many(3)
        assert [await q.dequeue(), await q.dequeue()] == [1, 2]
        with refused(EndOfQueue):
            await q.dequeue()


async def waiting_gets_are_served_in_order_at_a_close(open_session: OpenSession) -> None:
    """Semantics 1.3: at a close the first short dequeue_many fails, and those behind it get what it put back."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        calls: list[tuple[Any, tuple[int, ...]]] = [
            (q.dequeue_many, (4,)),
            (q.dequeue, ()),
            (q.dequeue_up_to, (5,)),
            (q.dequeue, ()),
        ]
        gets = []
        for number, (call, arguments) in enumerate(calls, start=1):
            gets.append(start(tasks, call, *arguments))
            await until(q, gets_waiting=number)
        await q.enqueue_many([1, 2, 3])
        await q.close()
        with refused(EndOfQueue):
            await gets[0].outcome()
        assert await gets[1].outcome() == 1
        assert (await gets[2].outcome()).tolist() == [2, 3]
        with refused(EndOfQueue):
            await gets[3].outcome()


async def a_cancelling_close_leaves_gets_to_what_is_there(open_session: OpenSession) -> None:
    """Semantics 1.3: waiting gets are cancelled by neither close: they are served, or get EndOfQueue."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        get = start(tasks, q.dequeue_up_to, 3)
        await until(q, gets_waiting=1)
        end = start(tasks, q.dequeue)
        await until(q, gets_waiting=2)
        await q.enqueue_many([1, 2])
        await q.close(cancel_pending_enqueues=True)
        assert (await get.outcome()).tolist() == [1, 2]
        with refused(EndOfQueue):
            await end.outcome()


# 1.4 Cancelling, with what 0.2 and 0.3 change


async def a_cancelled_put_was_not_accepted(open_session: OpenSession) -> None:
    """Semantics 0.3: a cancelled waiting enqueue was not accepted, and its record is gone at once (0.2)."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue(1)
        put = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        behind = start(tasks, q.enqueue, 3)
        await until(q, puts_waiting=2)
        assert await put.cancel()
        assert put.notes == []
        await until(q, puts_waiting=1)
        assert [await q.dequeue(), await q.dequeue()] == [1, 3]
        await behind.outcome()
        assert (await q.stats()).enqueued == 2


async def rows_of_a_cancelled_put_stay_in(open_session: OpenSession) -> None:
    """Semantics 0.3: rows of a cancelled enqueue_many that are in stay in, and a note gives their number."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(2)
        put = start(tasks, q.enqueue_many, [1, 2, 3, 4])
        await until(q, puts_waiting=1)
        assert await put.cancel()
        assert len(put.notes) == 1
        assert "2 rows" in put.notes[0]
        assert "stay in" in put.notes[0]
        assert (await q.dequeue_many(2)).tolist() == [1, 2]
        assert (await q.size(), (await q.stats()).puts_waiting) == (0, 0)


async def a_cancelled_get_gives_back_what_it_took(open_session: OpenSession) -> None:
    """Semantics 0.2: what a cancelled dequeue_many had taken goes back to its old place; the next get runs at once."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints()
        get = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1)
        await q.enqueue_many([1, 2])
        behind = start(tasks, q.dequeue)
        await until(q, gets_waiting=2)
        assert await get.cancel()
        assert await behind.outcome() == 1
        assert await q.dequeue() == 2
        up_to = start(tasks, q.dequeue_up_to, 3)
        await until(q, gets_waiting=1)
        await q.enqueue_many([3, 4])
        assert await up_to.cancel()
        await until(q, gets_waiting=0, size=2)
        assert (await q.dequeue_many(2)).tolist() == [3, 4]


async def a_cancelled_head_lets_the_next_put_run(open_session: OpenSession) -> None:
    """Semantics 1.4: cancelling the head of the puts lets the next one run at once."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(3, capacity_bytes=20)
        await q.enqueue_many([1, 2])
        big = start(tasks, q.enqueue, 3)
        await until(q, puts_waiting=1)
        close = start(tasks, q.close)
        await until(q, puts_waiting=2)
        assert await big.cancel()
        await close.outcome()
        assert (await q.dequeue_many(2)).tolist() == [1, 2]


async def a_cancelled_close_leaves_the_queue_open(open_session: OpenSession) -> None:
    """Semantics 0.2: a waiting plain close can be cancelled: it leaves the list and the queue stays open."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1)
        await q.enqueue(1)
        put = start(tasks, q.enqueue, 2)
        await until(q, puts_waiting=1)
        close = start(tasks, q.close)
        await until(q, puts_waiting=2)
        assert await close.cancel()
        assert [await q.dequeue(), await q.dequeue()] == [1, 2]
        await put.outcome()
        assert not await q.is_closed()
        await q.enqueue(3)


ENGINE_CHECKS = (
    gets_are_served_in_order,
    puts_are_served_in_order,
    an_enqueue_many_may_exceed_the_capacity,
    a_dequeue_many_may_exceed_the_capacity,
    the_rows_of_an_enqueue_many_are_contiguous,
    a_waiting_get_has_removed_what_it_took,
    one_operation_completes_several,
    what_is_invalid_fails_at_once,
    size_and_is_closed_never_wait,
    no_rows_succeed_at_once,
    a_batch_of_none_is_empty,
    dequeue_up_to_waits_for_all_while_open,
    a_negative_capacity_is_unbounded,
    a_close_takes_its_turn,
    a_second_close_is_an_error,
    a_cancelling_close_fails_every_waiting_put,
    a_closed_queue_refuses_puts,
    a_close_between_the_rows_keeps_those_in,
    a_short_dequeue_many_fails_without_a_loss,
    waiting_gets_are_served_in_order_at_a_close,
    a_cancelling_close_leaves_gets_to_what_is_there,
    a_cancelled_put_was_not_accepted,
    rows_of_a_cancelled_put_stay_in,
    a_cancelled_get_gives_back_what_it_took,
    a_cancelled_head_lets_the_next_put_run,
    a_cancelled_close_leaves_the_queue_open,
)
