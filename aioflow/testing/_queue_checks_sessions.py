"""Checks of where a queue lives and how it is found: semantics 1.10, and sessions with their queues."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import anyio

from aioflow.client import FIFOQueue, PaddingFIFOQueue, RandomShuffleQueue, lookup
from aioflow.errors import (
    EndOfQueue,
    NoSession,
    NotFound,
    PlacementError,
    QueueClosed,
    SessionClosed,
    SessionError,
    SpecMismatch,
)
from aioflow.graph import container
from aioflow.testing._queue_stage import fresh_name, ints, refused, start, until

if TYPE_CHECKING:
    from aioflow.testing._queue_stage import OpenSession

# One session


async def a_second_definition_finds_the_queue(open_session: OpenSession) -> None:
    """Semantics 1.10: a second definition with the same name finds the same queue; what it leaves out matches."""
    async with open_session():
        name = fresh_name()
        first = RandomShuffleQueue(10, 1, "int64", (), seed=3, shared_name=name, capacity_bytes=1000, producers=2)
        await first.enqueue(1)
        second = RandomShuffleQueue(10, 1, "int64", (), shared_name=name, names="n")
        await second.enqueue({"n": 2})
        assert await first.size() == 2
        await second.close()
        assert sorted((await first.dequeue_many(2)).tolist()) == [1, 2]


async def a_definition_that_disagrees_is_refused(open_session: OpenSession) -> None:
    """Semantics 1.10: a definition that disagrees is refused and names every difference; the queue is left alone."""
    async with open_session():
        name = fresh_name()
        q = ints(10, shared_name=name)
        await q.enqueue(1)
        other = RandomShuffleQueue(
            5, 2, ["int8", "str"], [(), ()], shared_name=name, seed=1, producers=3, capacity_bytes=99
        )
        differences = [
            "kind",
            "capacity:",
            "capacity_bytes",
            "seed",
            "producers",
            "min_after_dequeue",
            "dtypes",
            "shapes",
        ]
        for call in (other.size, other.close, other.dequeue, other.delete):
            with refused(SpecMismatch, name, *differences):
                await call()
        with refused(SpecMismatch, "shapes"):
            await FIFOQueue(10, "int64", None, shared_name=name).dequeue()
        assert (await q.size(), await q.dequeue()) == (1, 1)


async def padded_shapes_need_only_be_compatible(open_session: OpenSession) -> None:
    """Semantics 1.10: a PaddingFIFOQueue of shape [3, 2] joins one of [None, 2], and not one of [None, 4]."""
    async with open_session():
        name = fresh_name()
        q = PaddingFIFOQueue(10, "int64", [[None, 2]], shared_name=name)
        await q.enqueue([[1, 2]])
        assert await PaddingFIFOQueue(10, "int64", [[3, 2]], shared_name=name).size() == 1
        with refused(SpecMismatch, "shapes"):
            await PaddingFIFOQueue(10, "int64", [[None, 4]], shared_name=name).size()


async def a_container_is_part_of_the_key(open_session: OpenSession) -> None:
    """Semantics 1.10: the same name in another container is another queue; a definition captures its container."""
    async with open_session():
        name = fresh_name()
        outer = ints(shared_name=name)
        with container("experiment"):
            inner = ints(5, shared_name=name)
            found = lookup(name)
        await outer.enqueue(1)
        await inner.enqueue_many([2, 3])
        assert (await outer.size(), await inner.size(), await found.size()) == (1, 2, 2)
        assert await lookup(name, container="experiment").dequeue() == 2
        with refused(NotFound, name, "container 'elsewhere'"):
            await lookup(name, container="elsewhere").size()


async def private_queues_are_apart(open_session: OpenSession) -> None:
    """Semantics 1.10: without a shared name, or with an empty one, each definition is a queue of its own."""
    async with open_session():
        first, second, third = ints(), ints(), ints(shared_name="")
        await first.enqueue(1)
        await second.enqueue_many([1, 2])
        assert [await q.size() for q in (first, second, third)] == [1, 2, 0]
        with refused(NotFound):
            await lookup(first.name.lstrip("_")).size()


async def names_may_not_start_with_an_underscore(open_session: OpenSession) -> None:
    """Semantics 1.10: names may hold anything but must not start with an underscore, nor be longer than is carried."""
    async with open_session():
        for bad in ("_x", "x" * 2000):
            with refused(SpecMismatch):
                ints(shared_name=bad)
            with refused(SpecMismatch):
                lookup(bad)
        q = ints(shared_name=f"ü / \n {fresh_name()}")
        await q.enqueue(1)
        assert await lookup(q.name).dequeue() == 1


async def a_lookup_takes_the_definition(open_session: OpenSession) -> None:
    """Lookup: attaches with the definition the queue was made with; NotFound names what is there."""
    async with open_session():
        name = fresh_name()
        with refused(NotFound, name, "there are"):
            await lookup(name).size()
        with refused(NotFound, name):
            await lookup(name)
        await FIFOQueue(5, ["int64", "str"], [(), ()], ["n", "t"], shared_name=name).enqueue({"n": 1, "t": "x"})
        found = await lookup(name)
        assert found.definition.capacity == 5
        assert await found.dequeue() == {"n": 1, "t": "x"}
        late = lookup(name)
        await late.enqueue({"n": 2, "t": "y"})
        assert await found.size() == 1


async def an_epoch_is_a_queue_of_its_own(open_session: OpenSession) -> None:
    """Epochs: q.epoch(k) is the same definition under NAME#k, one queue for each k, closed by its producers."""
    async with open_session():
        q = ints(shared_name=fresh_name())
        for k in range(3):
            async with q.epoch(k).producer():
                await q.epoch(k).enqueue_many([10 * k, 10 * k + 1])
        assert q.epoch(2).name == f"{q.name}#2"
        for k in range(3):
            assert [batch.tolist() async for batch in q.epoch(k).batches(5)] == [[10 * k, 10 * k + 1]]
        assert (await q.size(), await q.is_closed()) == (0, False)
        private = ints()
        await private.epoch(1).enqueue(1)
        assert (await private.epoch(1).size(), await private.epoch(2).size()) == (1, 0)


async def a_handle_can_be_bound(open_session: OpenSession) -> None:
    """Sessions: queue.on(session) works where another session, or none, is current, for private queues too."""
    async with open_session() as first:
        q, shared = ints(), ints(shared_name=fresh_name())
        await q.enqueue(1)
        async with open_session() as second:
            assert (await q.size(), await q.on(second).size(), await q.on(first).size()) == (0, 0, 1)
            await shared.on(first).epoch(1).enqueue(7)
            assert await shared.on(first).epoch(1).size() == 1
        async with q.on(first).producer(), q.on(first).writer() as writer:
            await writer.write(2)
        assert [batch.tolist() async for batch in q.on(first).batches(2)] == [[1, 2]]


async def without_a_session_nothing_works(open_session: OpenSession) -> None:
    """Sessions: where none is current an operation raises NoSession and says what to do."""
    q = ints()
    with refused(NoSession, "flow.Session", "queue.on(session)"):
        await q.size()
    async with open_session() as session:
        await q.enqueue(1)
    with refused(NoSession):
        await q.dequeue()
    with refused(SessionClosed):
        await q.on(session).dequeue()
    with refused(SessionError, "opened before"):
        await session.open()


async def a_waiting_operation_ends_with_its_session(open_session: OpenSession) -> None:
    """Sessions: operations that wait when their session is left end with SessionClosed, and later ones do too."""
    async with anyio.create_task_group() as tasks:
        async with open_session() as session:
            q, full = ints(), ints(1)
            await full.enqueue(1)
            waiting = [
                start(tasks, q.dequeue),
                start(tasks, q.dequeue_many, 3),
                start(tasks, anext, q.batches(2)),
                start(tasks, full.enqueue, 2),
            ]
            await until(full, puts_waiting=1)
            waiting.append(start(tasks, full.close))
            await until(q, gets_waiting=3)
            await until(full, puts_waiting=2)
        for operation in waiting:
            with refused(SessionClosed):
                await operation.outcome()
        with refused(SessionClosed):
            await q.on(session).size()
        await session.close()


async def a_deleted_queue_wakes_its_waiters(open_session: OpenSession) -> None:
    """Delete: what waits fails with NotFound, elements are dropped, and the next operation makes a new queue."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = ints(1, shared_name=fresh_name())
        get = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1)
        await q.enqueue_many([1, 2])
        await q.delete()
        with refused(NotFound, "deleted"):
            await get.outcome()
        assert await q.size() == 0
        await q.enqueue(5)
        put = start(tasks, q.enqueue, 6)
        await until(q, puts_waiting=1)
        await q.delete()
        with refused(NotFound, "deleted"):
            await put.outcome()
        with refused(NotFound):
            await lookup(q.name)
        await q.enqueue(7)
        assert await q.dequeue() == 7


async def a_drained_queue_stays_for_late_consumers(open_session: OpenSession) -> None:
    """Sessions: a closed, drained queue stays; a put of the attached session is refused, a producer starts anew."""
    async with open_session():
        q = ints(shared_name=fresh_name())
        async with q.producer():
            await q.enqueue(1)
        assert await q.dequeue() == 1
        with refused(QueueClosed):
            await q.enqueue(2)
        with refused(EndOfQueue):
            await q.dequeue()
        async with q.producer():
            await q.enqueue(3)
            assert not await q.is_closed()
        assert await q.dequeue() == 3
        with refused(EndOfQueue):
            await q.dequeue()


async def statistics_are_frozen(open_session: OpenSession) -> None:
    """Statistics: a snapshot, with the counts so far."""
    async with open_session():
        q = ints(5, capacity_bytes=1000)
        await q.enqueue_many([1, 2, 3])
        await q.dequeue()
        stats = await q.stats()
        assert (stats.kind, stats.capacity, stats.capacity_bytes) == ("FIFOQueue", 5, 1000)
        assert (stats.size, stats.size_bytes, stats.enqueued, stats.is_closed) == (2, 16, 3, False)
        await until(q, dequeued=1, unacknowledged=0)
        with refused(FrozenInstanceError):
            stats.size = 0  # type: ignore[misc]


async def a_definition_can_be_pickled(open_session: OpenSession) -> None:
    """Definitions: a shared one can be pickled and copied, a private one cannot be pickled."""
    async with open_session() as session:
        with container("kept"):
            q = PaddingFIFOQueue(10, "str", [[None]], shared_name=fresh_name())
        await q.enqueue(["a", "b"])
        again = pickle.loads(pickle.dumps(q.on(session)))  # noqa: S301 - its own
        assert await again.size() == 1
        assert (await copy.copy(q).dequeue()).tolist() == ["a", "b"]
        private = ints()
        with refused(TypeError, "private", "shared_name"):
            pickle.dumps(private)


async def a_foreign_task_is_refused(open_session: OpenSession) -> None:
    """Placement: a queue that names a task which the session does not reach is refused, and says what it does reach."""
    async with open_session():
        with refused(PlacementError, "/job:elsewhere/task:3", "/job:"):
            await ints(device="/job:elsewhere/task:3", shared_name=fresh_name()).size()
        await ints(device="/task:0/cpu:0").enqueue(1)


# Two sessions that share queues


async def two_sessions_share_a_queue(open_session: OpenSession) -> None:
    """Semantics 1.10: a shared queue is found by every session and survives the one that made it."""
    q = ints(2, shared_name=fresh_name())
    async with open_session() as reader, anyio.create_task_group() as tasks:
        get = start(tasks, q.on(reader).dequeue_many, 4)
        await until(q, gets_waiting=1)
        async with open_session():
            await q.enqueue_many([1, 2, 3, 4, 5])
        assert (await get.outcome()).tolist() == [1, 2, 3, 4]
        assert await q.dequeue() == 5


async def private_queues_belong_to_their_session(open_session: OpenSession) -> None:
    """Semantics 1.10: two sessions with the same private definition have separate queues, which go with them."""
    q = ints()
    async with open_session() as first, open_session() as second:
        await q.on(first).enqueue(1)
        assert (await q.on(first).size(), await q.on(second).size()) == (1, 0)


async def a_left_session_gives_back(open_session: OpenSession) -> None:
    """Semantics 0.2: what a session's waiting and unfinished gets had taken goes back in order when it is left."""
    q = ints(100, shared_name=fresh_name())
    async with open_session() as stays, anyio.create_task_group() as tasks:
        await q.enqueue_many(list(range(10)))
        async with open_session() as leaves:
            batches = q.on(leaves).batches(2)
            assert (await anext(batches)).tolist() == [0, 1]
            get = start(tasks, q.on(leaves).dequeue_many, 20)
            await until(q.on(stays), gets_waiting=1, size=0)
        with refused(SessionClosed):
            await get.outcome()
        await until(q.on(stays), gets_waiting=0, size=8, ahead=0)
        assert (await q.on(stays).dequeue_many(8)).tolist() == list(range(2, 10))
        with refused(SessionClosed):
            await anext(batches)


async def a_producer_of_a_left_session_is_lost(open_session: OpenSession) -> None:
    """Semantics 0.4: a producer whose session ended without its leaving counts as lost, and consumers are told."""
    q = ints(100, shared_name=fresh_name())
    async with open_session() as stays:
        async with open_session() as leaves:
            producer = q.on(leaves).producer("gone")
            await producer.__aenter__()
            await q.enqueue_many([1, 2, 3])
        seen = []
        with refused(EndOfQueue) as caught:
            async for batch in q.on(stays).batches(2):
                seen += batch.tolist()
        assert seen == [1, 2, 3]
        assert [lost.name for lost in caught[0].lost_producers] == ["gone"]  # type: ignore[attr-defined]


async def a_consumer_with_batches_ahead_does_not_starve_others(open_session: OpenSession) -> None:
    """Semantics 0.4: several consumers each get their share, every element once, and both see the end."""
    q = ints(64, shared_name=fresh_name())
    shares: list[list[int]] = [[], []]
    async with open_session() as first, open_session() as second, open_session(), anyio.create_task_group() as tasks:

        async def consume(number: int) -> None:
            async for batch in q.on((first, second)[number]).batches(3):
                shares[number] += batch.tolist()

        for number in range(2):
            tasks.start_soon(consume, number)
        async with q.producer():
            await until(q, gets_waiting=2)
            for i in range(300):
                await q.enqueue(i)
    assert sorted(shares[0] + shares[1]) == list(range(300))
    assert all(share == sorted(share) for share in shares)
    assert min(map(len, shares)) >= 50


async def what_another_holds_ahead_is_recalled(open_session: OpenSession) -> None:
    """Semantics 0.4: a get on a closed, empty queue gets what another session holds ahead and has not handed over."""
    q = ints(100, shared_name=fresh_name())
    async with open_session() as holder, open_session():
        await q.enqueue_many(list(range(6)))
        batches = q.on(holder).batches(2)
        assert (await anext(batches)).tolist() == [0, 1]
        await until(q, ahead=4)
        await q.close()
        got: list[int] = []
        while len(got) < 4:
            got += (await q.dequeue_up_to(10)).tolist()  # of what comes back, the first may come alone
        assert got == [2, 3, 4, 5]
        assert [batch async for batch in batches] == []


async def a_new_queue_starts_when_nobody_else_is_attached(open_session: OpenSession) -> None:
    """Sessions: a put to a drained queue starts a new one only where no other session is attached."""
    q = ints(shared_name=fresh_name())
    async with open_session() as first:
        await q.enqueue(1)
        await q.close()
        await q.dequeue()
        async with open_session():
            with refused(QueueClosed):
                await q.enqueue(2)
            with refused(EndOfQueue):
                await q.dequeue()
        with refused(EndOfQueue):
            await q.on(first).dequeue()
    async with open_session():
        await q.enqueue(3)
        assert await q.dequeue() == 3


async def a_deleted_queue_wakes_other_sessions(open_session: OpenSession) -> None:
    """Delete: waiting operations of other sessions fail with NotFound, registrations that wait included."""
    q = ints(shared_name=fresh_name())
    async with open_session() as first, open_session() as second, anyio.create_task_group() as tasks:
        get = start(tasks, q.on(first).dequeue)
        async with q.on(second).producer("name"):
            join = start(tasks, q.on(first).producer("name").__aenter__)
            await until(q, gets_waiting=1)
            await q.on(first).size()  # after it in the same session: the registration has arrived
            await q.delete()
            for operation in (get, join):
                with refused(NotFound, "deleted"):
                    await operation.outcome()


SESSION_CHECKS = (
    a_second_definition_finds_the_queue,
    a_definition_that_disagrees_is_refused,
    padded_shapes_need_only_be_compatible,
    a_container_is_part_of_the_key,
    private_queues_are_apart,
    names_may_not_start_with_an_underscore,
    a_lookup_takes_the_definition,
    an_epoch_is_a_queue_of_its_own,
    a_handle_can_be_bound,
    without_a_session_nothing_works,
    a_waiting_operation_ends_with_its_session,
    a_deleted_queue_wakes_its_waiters,
    a_drained_queue_stays_for_late_consumers,
    statistics_are_frozen,
    a_definition_can_be_pickled,
    a_foreign_task_is_refused,
)
SHARING_CHECKS = (
    two_sessions_share_a_queue,
    private_queues_belong_to_their_session,
    a_left_session_gives_back,
    a_producer_of_a_left_session_is_lost,
    a_consumer_with_batches_ahead_does_not_starve_others,
    what_another_holds_ahead_is_recalled,
    a_new_queue_starts_when_nobody_else_is_attached,
    a_deleted_queue_wakes_other_sessions,
)
