"""Checks of what the four kinds of queues do differently: semantics 1.5, 1.6, 1.8 and 1.9."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import numpy as np

from aioflow.client import FIFOQueue, PaddingFIFOQueue, PriorityQueue, RandomShuffleQueue
from aioflow.errors import EndOfQueue, SpecMismatch
from aioflow.specs import numpy_dtype
from aioflow.testing._queue_stage import ints, refused, start, until

if TYPE_CHECKING:
    from aioflow.testing._queue_stage import OpenSession

# 1.5 FIFOQueue


async def a_fifo_gives_the_order_of_acceptance(open_session: OpenSession) -> None:
    """Semantics 1.5: elements and batches of a FIFOQueue come in put order."""
    async with open_session():
        q = ints(100)
        await q.enqueue(0)
        await q.enqueue_many([1, 2, 3])
        await q.enqueue_many([4, 5])
        await q.enqueue(6)
        assert await q.dequeue() == 0
        assert (await q.dequeue_many(4)).tolist() == [1, 2, 3, 4]
        assert (await q.dequeue_up_to(2)).tolist() == [5, 6]


async def without_shapes_an_element_may_have_any(open_session: OpenSession) -> None:
    """Semantics 1.5: without shapes each element has its own shape and rank, and batches are refused, also of 0."""
    async with open_session():
        q = FIFOQueue(10, ["int64", "str"])
        values: list[tuple[Any, Any]] = [(np.arange(3), "a"), (np.zeros((2, 0), np.int64), [["b"]]), (5, [])]
        for value in values:
            await q.enqueue(value)
        for n in (0, 2):
            for take in (q.dequeue_many, q.dequeue_up_to):
                with refused(SpecMismatch, "without shapes", "dequeue()"):
                    await take(n)
        for number, text in values:
            got = await q.dequeue()
            assert np.shape(got[0]) == np.shape(number)
            assert np.array_equal(got[0], number)
            assert np.array_equal(got[1], np.array(text, dtype=object))


# 1.6 RandomShuffleQueue


async def a_shuffle_keeps_its_reserve_while_open(open_session: OpenSession) -> None:
    """Semantics 1.6: while open no get takes the last min_after_dequeue elements; after the close any may."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = RandomShuffleQueue(20, 4, "int64", ())
        await q.enqueue_many(list(range(7)))
        got = (await q.dequeue_many(3)).tolist()
        get = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1, size=4)
        await q.enqueue_many([7, 8])
        await until(q, gets_waiting=1, size=4)
        await q.close()
        got += (await get.outcome()).tolist()
        got += (await q.dequeue_up_to(10)).tolist()
        assert sorted(got) == list(range(9))
        with refused(EndOfQueue):
            await q.dequeue()


async def a_shuffle_batch_may_exceed_what_fits(open_session: OpenSession) -> None:
    """Semantics 1.6: a waiting dequeue_many takes elements as they rise above the reserve, so any n is fine."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = RandomShuffleQueue(5, 3, "int64", (), seed=3)
        get = start(tasks, q.dequeue_many, 8)
        await q.enqueue_many(list(range(11)))
        assert len(set((await get.outcome()).tolist())) == 8
        assert await q.size() == 3


async def a_cancelled_shuffle_get_returns_to_the_bag(open_session: OpenSession) -> None:
    """Semantics 0.2: what a cancelled or failed dequeue_many of a RandomShuffleQueue had taken goes back to the bag."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = RandomShuffleQueue(20, 2, "int64", ())
        await q.enqueue_many(list(range(6)))
        get = start(tasks, q.dequeue_many, 9)
        await until(q, gets_waiting=1, size=2)
        assert await get.cancel()
        await until(q, gets_waiting=0, size=6)
        short = start(tasks, q.dequeue_many, 9)
        await until(q, gets_waiting=1, size=2)
        await q.close()
        with refused(EndOfQueue):
            await short.outcome()
        assert sorted((await q.dequeue_many(6)).tolist()) == list(range(6))


async def a_shuffle_moves_components_together(open_session: OpenSession) -> None:
    """Semantics 1.6: the components of an element stay together, and nothing is lost or doubled."""
    async with open_session():
        q = RandomShuffleQueue(500, 0, ["int64", "str", "float32"], [(), (), (2,)])
        await q.enqueue_many((np.arange(200), [str(i) for i in range(200)], np.arange(400).reshape(200, 2)))
        numbers, texts, pairs = await q.dequeue_many(200)
        assert sorted(numbers.tolist()) == list(range(200))
        assert numbers.tolist() != list(range(200))
        assert texts.tolist() == [str(i) for i in numbers]
        assert pairs.tolist() == [[2 * i, 2 * i + 1] for i in numbers]


async def a_seed_repeats_the_order(open_session: OpenSession) -> None:
    """Semantics 1.6: with a seed the same operations give the same order; 0 is a seed; without one it is drawn."""
    orders = []
    for seed in (7, 7, 0, 0, None, None):
        async with open_session():
            q = RandomShuffleQueue(100, 5, "int64", (), seed=seed)
            await q.enqueue_many(list(range(50)))
            order = (await q.dequeue_many(20)).tolist() + [await q.dequeue() for _ in range(5)]
            await q.close()
            orders.append(order + (await q.dequeue_up_to(50)).tolist())
    assert orders[0] == orders[1]
    assert orders[2] == orders[3]
    assert len({tuple(order) for order in orders}) == 4


async def a_reserve_must_be_below_the_capacity(open_session: OpenSession) -> None:
    """Semantics 1.6 and 0.2: min_after_dequeue outside 0 to capacity - 1 is refused at construction."""
    async with open_session():
        for reserve in (-1, 10, 11):
            with refused(SpecMismatch, "min_after_dequeue", str(reserve)):
                RandomShuffleQueue(10, reserve, "int64", ())
        RandomShuffleQueue(-1, 1000, "int64", ())


# 1.8 PaddingFIFOQueue


async def a_batch_is_padded_to_its_largest(open_session: OpenSession) -> None:
    """Semantics 1.8: each None dimension becomes the batch's own maximum, filled at the end; one alone is not."""
    async with open_session():
        q = PaddingFIFOQueue(10, ["int32", "float64"], [[None, 2, None], []])
        sizes = [(1, 3), (2, 1), (0, 2), (4, 4)]
        blocks = [np.arange(1, a * 2 * b + 1, dtype=np.int32).reshape(a, 2, b) for a, b in sizes]
        for i, block in enumerate(blocks):
            await q.enqueue((block, i))
        batch, numbers = await q.dequeue_many(3)
        expected = np.zeros((3, 2, 2, 3), np.int32)
        for i, (a, b) in enumerate(sizes[:3]):
            expected[i, :a, :, :b] = blocks[i]
        assert np.array_equal(batch, expected)
        assert numbers.tolist() == [0, 1, 2]
        alone, _ = await q.dequeue()
        assert np.array_equal(alone, blocks[3])
        empty, _ = await q.dequeue_many(0)
        assert empty.shape == (0, 0, 2, 0)


async def the_padding_is_the_zero_of_the_dtype(open_session: OpenSession) -> None:
    """Semantics 1.8: every dtype is padded with its zero, strings with the empty one; scalars are never padded."""
    names = [*(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
    names += ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"]
    async with open_session():
        q = PaddingFIFOQueue(10, [*names, "str", "bytes", "str"], [*([None] for _ in names), [None], [None], []])
        one, three = ([np.ones(size, numpy_dtype(name)) for name in names] for size in (1, 3))
        await q.enqueue((*one, ["x"], [b"\0y"], "z"))
        await q.enqueue((*three, ["x", "y", "z"], [b"", b"y", b""], ""))
        *numbers, texts, blobs, scalars = await q.dequeue_many(2)
        for name, batch in zip(names, numbers, strict=True):
            assert batch.dtype.name == name
            assert batch.astype(np.complex128).tolist() == [[1, 0, 0], [1, 1, 1]], name
        assert texts.tolist() == [["x", "", ""], ["x", "y", "z"]]
        assert blobs.tolist() == [[b"\0y", b"", b""], [b"", b"y", b""]]
        assert scalars.tolist() == ["z", ""]


async def padding_works_for_any_rank(open_session: OpenSession) -> None:
    """Semantics 0.2: components of rank 5 and more, and rows of no size, are padded as all others."""
    async with open_session():
        q = PaddingFIFOQueue(10, "int8", [[None, 1, None, 1, None, 1]])
        await q.enqueue(np.ones((1, 1, 2, 1, 1, 1), np.int8))
        await q.enqueue(np.ones((2, 1, 0, 1, 3, 1), np.int8))
        batch = await q.dequeue_many(2)
        assert batch.shape == (2, 2, 1, 2, 1, 3, 1)
        assert batch.sum() == 2
        await q.enqueue_many(np.zeros((3, 0, 1, 0, 1, 0, 1), np.int8))
        assert (await q.dequeue_many(3)).shape == (3, 0, 1, 0, 1, 0, 1)


async def each_batch_is_padded_by_itself(open_session: OpenSession) -> None:
    """Semantics 1.8: only by its own elements, however many were written, sent and asked for at once."""
    async with open_session():
        q = PaddingFIFOQueue(100, ["int32", "int64"], [[None, 2], []])
        blocks = [np.full((i * 7 % 5, 2), i, np.int32) for i in range(60)]
        async with q.writer(batch=20) as writer:
            for i, block in enumerate(blocks[:57]):
                await writer.write((block if i % 3 else block.tolist() or block, i))
            await writer.write_many((np.zeros((3, 4, 2), np.int32), [57, 58, 59]))
        blocks[57:] = [np.zeros((4, 2), np.int32)] * 3
        await q.close()
        alone, _ = await q.dequeue()
        assert np.array_equal(alone, blocks[0])
        start = 1
        async for batch, numbers in q.batches(4):
            assert numbers.tolist() == list(range(start, min(start + 4, 60)))
            rows = blocks[start : start + 4]
            assert batch.shape == (len(rows), max(map(len, rows)), 2)
            for got, row in zip(batch, rows, strict=True):
                assert np.array_equal(got[: len(row)], row)
                assert not got[len(row) :].any()
            start += len(rows)
        assert start == 60


async def a_padding_queue_checks_rank_and_known_sizes(open_session: OpenSession) -> None:
    """Semantics 1.8: rank and known dimensions are checked; a list of shapes is required (1.7)."""
    async with open_session():
        q = PaddingFIFOQueue(10, "int64", [[None, 3]])
        for value in ([1, 2, 3], [[1, 2]], [[[1, 2, 3]]]):
            with refused(SpecMismatch, "int64[?,3]"):
                await q.enqueue(value)
        assert await q.size() == 0
        several: list[Any] = [None, (), [], (None,)]
        for shapes in several:
            with refused(SpecMismatch, "list of shapes"):
                PaddingFIFOQueue(10, "int64", shapes)


# 1.9 PriorityQueue


async def the_lowest_priority_comes_first(open_session: OpenSession) -> None:
    """Semantics 1.9: lowest first, negatives allowed, ties in the order of acceptance (0.2), components together."""
    async with open_session():
        q = PriorityQueue(100, ["str", "int64"], [(), ()])
        priorities = [5, -3, 5, 0, 5, -3, 2**62, -(2**62), 0]
        for i, priority in enumerate(priorities[:4]):
            await q.enqueue((priority, str(i), i))
        rest = range(4, len(priorities))
        await q.enqueue_many((priorities[4:], [str(i) for i in rest], list(rest)))
        expected = sorted(range(len(priorities)), key=lambda i: priorities[i])
        first, text, number = await q.dequeue()
        assert (first, text, number) == (-(2**62), "7", 7)
        got, texts, numbers = await q.dequeue_many(8)
        assert numbers.tolist() == expected[1:]
        assert texts.tolist() == [str(i) for i in expected[1:]]
        assert got.tolist() == sorted(priorities)[1:]


async def a_priority_batch_is_taken_all_at_once(open_session: OpenSession) -> None:
    """Semantics 1.9: a dequeue_many takes nothing until n are there, and later gets wait behind it meanwhile."""
    async with open_session(), anyio.create_task_group() as tasks:
        q = PriorityQueue(10, "int64", ())
        await q.enqueue_many(([3, 1], [30, 10]))
        batch = start(tasks, q.dequeue_many, 3)
        await until(q, gets_waiting=1)
        one = start(tasks, q.dequeue)
        await until(q, gets_waiting=2, size=2)
        await q.enqueue((2, 20))
        assert (await batch.outcome())[1].tolist() == [10, 20, 30]
        await q.enqueue((0, 0))
        assert await one.outcome() == (0, 0)


async def a_priority_batch_must_fit(open_session: OpenSession) -> None:
    """Semantics 0.2: n above the capacity of a PriorityQueue is an error; on a closed one up_to gives the remainder."""
    async with open_session():
        q = PriorityQueue(3, "int64", ())
        for take in (q.dequeue_many, q.dequeue_up_to):
            with refused(SpecMismatch, "4", "capacity of 3"):
                await take(4)
        await q.enqueue_many(([2, 1], [20, 10]))
        await q.close()
        with refused(EndOfQueue, "requested 3"):
            await q.dequeue_many(3)
        assert (await q.dequeue_up_to(3))[1].tolist() == [10, 20]


async def names_of_a_priority_queue_include_the_priority(open_session: OpenSession) -> None:
    """Semantics 1.9: dtypes and shapes describe the values only; names include one for the priority in front."""
    async with open_session():
        q = PriorityQueue(5, "str", None, ["when", "what"])
        await q.enqueue({"what": "later", "when": 9})
        await q.enqueue({"when": 1, "what": "now"})
        assert await q.dequeue() == {"when": 1, "what": "now"}
        with refused(SpecMismatch, "1 names", "2 components"):
            PriorityQueue(5, "str", None, ["what"])
        with refused(SpecMismatch, "int64"):
            await q.enqueue({"when": 1.5, "what": "x"})


KIND_CHECKS = (
    a_fifo_gives_the_order_of_acceptance,
    without_shapes_an_element_may_have_any,
    a_shuffle_keeps_its_reserve_while_open,
    a_shuffle_batch_may_exceed_what_fits,
    a_cancelled_shuffle_get_returns_to_the_bag,
    a_shuffle_moves_components_together,
    a_seed_repeats_the_order,
    a_reserve_must_be_below_the_capacity,
    a_batch_is_padded_to_its_largest,
    the_padding_is_the_zero_of_the_dtype,
    padding_works_for_any_rank,
    each_batch_is_padded_by_itself,
    a_padding_queue_checks_rank_and_known_sizes,
    the_lowest_priority_comes_first,
    a_priority_batch_is_taken_all_at_once,
    a_priority_batch_must_fit,
    names_of_a_priority_queue_include_the_priority,
)
