"""Checks of what goes in and comes out: semantics 1.7 with the changes of 0.2, and the types of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.client import FIFOQueue, PaddingFIFOQueue
from aioflow.errors import SpecMismatch
from aioflow.testing._queue_stage import ints, refused

if TYPE_CHECKING:
    from aioflow.testing._queue_stage import OpenSession


async def a_malformed_definition_is_refused(open_session: OpenSession) -> None:
    """Semantics 1.7: no component, wrong numbers of shapes or names, partial or unknown shapes are refused."""
    async with open_session():
        cases: list[tuple[tuple[Any, ...], tuple[str, ...]]] = [
            ((5, []), ("dtypes is empty",)),
            ((5, ["int64", "int8"], [()]), ("1 shapes for 2 components",)),
            ((5, ["int64"], [(), ()]), ("2 shapes for 1 components",)),
            ((5, ["int64"], [()], ["a", "b"]), ("2 names", "1 components")),
            ((5, ["int64"], 3), ("shapes must be None", "3")),
            ((5, ["int64"], [[None]]), ("unknown size", "PaddingFIFOQueue")),
            ((5, ["int64"], [None]), ()),
            ((5, ["int64"], [[-1]]), ("negative",)),
            ((5, ["object"]), ("object",)),
            ((5, ["datetime64[s]"]), ("datetime64",)),
            ((1.5, ["int64"]), ("capacity", "1.5")),
            ((5, ["int64"], None, [3]), ("names", "3")),
        ]
        for arguments, parts in cases:
            with refused(SpecMismatch, *parts):
                FIFOQueue(*arguments)
        with refused(SpecMismatch, "list of shapes"):
            PaddingFIFOQueue(5, ["int64"], (3,))
        assert FIFOQueue(5, "int64", (3, 2)).definition.element.components[0].shape == (3, 2)
        assert FIFOQueue(5, "int64", []).definition.element.components[0].shape == ()


async def the_list_of_components_is_a_tuple(open_session: OpenSession) -> None:
    """Semantics 0.2: on a one-component queue what is no tuple is the component; with more a list will do."""
    async with open_session():
        one = FIFOQueue(10, "int64", (2,))
        await one.enqueue([5, 6])
        await one.enqueue(([7, 8],))
        assert (await one.dequeue_many(2)).tolist() == [[5, 6], [7, 8]]
        scalars = ints()
        await scalars.enqueue_many([1, 2, 3])
        await scalars.enqueue_many(([4],))
        assert (await scalars.dequeue_many(4)).tolist() == [1, 2, 3, 4]
        two = FIFOQueue(10, ["int64", "float32"], [(), (2,)])
        await two.enqueue([1, [2, 3]])
        await two.enqueue((4, [5, 6]))
        numbers, pairs = await two.dequeue_many(2)
        assert (numbers.tolist(), pairs.tolist()) == ([1, 4], [[2, 3], [5, 6]])


async def a_wrong_number_of_components_is_refused(open_session: OpenSession) -> None:
    """Semantics 0.2: too few and too many components are refused, and say what was expected and what came."""
    async with open_session():
        two = FIFOQueue(10, ["int64", "str"], [(), ()])
        cases: list[tuple[Any, str]] = [
            ((1,), "got 1 components"),
            ((1, "a", 2), "got 3 components"),
            (5, "single int"),
        ]
        for value, part in cases:
            with refused(SpecMismatch, part, "a tuple of 2: int64[], str[]"):
                await two.enqueue(value)
        with refused(SpecMismatch, "got 2 components", "one component int64[]"):
            await ints().enqueue((1, 2))
        assert await two.size() == 0


async def names_take_and_give_dicts(open_session: OpenSession) -> None:
    """Semantics 1.7: with names a value is a dict of exactly those; without, a dict is refused."""
    async with open_session():
        q = FIFOQueue(10, ["int64", "str"], [(), ()], ["n", "text"])
        await q.enqueue({"text": "a", "n": 1})
        await q.enqueue_many({"n": [2, 3], "text": ["b", "c"]})
        assert await q.dequeue() == {"n": 1, "text": "a"}
        batch = await q.dequeue_many(2)
        assert list(batch) == ["n", "text"]
        assert (batch["n"].tolist(), batch["text"].tolist()) == ([2, 3], ["b", "c"])
        values: list[Any] = [(1, "a"), {"n": 1}, {"n": 1, "text": "a", "more": 2}, {}]
        for value in values:
            with refused(SpecMismatch, "['n', 'text']"):
                await q.enqueue(value)
        with refused(SpecMismatch, "no names"):
            await ints().enqueue({"n": 1})
        assert await q.size() == 0


async def numbers_must_fit(open_session: OpenSession) -> None:
    """Semantics 0.2: Python ints and bools fit exactly, floats round and do not overflow, arrays are same_kind."""
    nan = float("nan")
    takes: list[tuple[str, Any, Any]] = [
        ("int8", 127, 127),
        ("int32", True, 1),
        ("float32", 3, 3.0),
        ("float32", 0.1, np.float32(0.1)),
        ("float16", np.float64(0.1), np.float16(0.1)),
        ("int32", np.int64(5), 5),
        ("complex64", 1.5, 1.5 + 0j),
        ("bool", True, True),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("float64", np.float32(nan), nan),
    ]
    refuses: list[tuple[str, Any]] = [
        ("int8", 128),
        ("int32", 2**40),
        ("uint8", -1),
        ("int32", 1.0),
        ("int32", np.float64(1.0)),
        ("bool", 1),
        ("float32", 1e300),
        ("float64", 2**53 + 1),
        ("int32", np.int64(2**40)),
        ("int8", np.array(200, np.uint8)),
        ("float32", 1j),
        ("float32", "1"),
        ("int64", 2**63),
        ("float32", None),
        ("float32", object()),
    ]
    async with open_session():
        for dtype, value, expected in takes:
            q = FIFOQueue(2, dtype, ())
            await q.enqueue(value)
            got = await q.dequeue()
            assert got.dtype.name == dtype
            assert np.array_equal(got, np.array(expected, got.dtype), equal_nan=got.dtype.kind == "f"), (dtype, value)
        for dtype, value in refuses:
            q = FIFOQueue(2, dtype, ())
            with refused(SpecMismatch, "component 0"):
                await q.enqueue(value)
            assert await q.size() == 0, (dtype, value)


async def strings_come_back_as_they_went(open_session: OpenSession) -> None:
    """Semantics 0.2: str and bytes queues take either kind, and give object arrays (or one str or bytes) back."""
    async with open_session():
        q = FIFOQueue(10, ["str", "bytes"], [(), (2,)])
        await q.enqueue(("häß\0", [b"a\0", b""]))
        await q.enqueue((b"bytes", ["x", "ü"]))
        await q.enqueue_many((np.array(["u", "v"]), np.array([[b"1", b"2"], [b"3", b"4"]], dtype="S5")))
        text, blobs = await q.dequeue()
        assert (text, blobs.tolist()) == ("häß\0", [b"a\0", b""])
        texts, blobs = await q.dequeue_many(3)
        assert (texts.dtype, blobs.dtype) == (object, object)
        assert texts.tolist() == ["bytes", "u", "v"]
        assert blobs.tolist() == [[b"x", "ü".encode()], [b"1", b"2"], [b"3", b"4"]]
        refuses: list[tuple[Any, Any]] = [(b"\xff", ["a", "b"]), (1, ["a", "b"]), (None, ["a", "b"]), ("a", ["b", 3])]
        for value in refuses:
            with refused(SpecMismatch, "component"):
                await q.enqueue(value)
        assert await q.size() == 0


async def all_components_need_the_same_rows(open_session: OpenSession) -> None:
    """Semantics 1.7: enqueue_many needs a leading dimension, the same for every component; nothing is queued if not."""
    async with open_session():
        q = FIFOQueue(10, ["int64", "float32"], [(), (2,)])
        with refused(SpecMismatch, "component 1", "1 rows", "2"):
            await q.enqueue_many(([1, 2], [[1, 2]]))
        with refused(SpecMismatch, "leading dimension"):
            await q.enqueue_many((1, [[1, 2]]))
        with refused(SpecMismatch, "leading dimension"):
            await FIFOQueue(10, "int64").enqueue_many(5)
        with refused(SpecMismatch, "[3]", "float32[2]"):
            await q.enqueue_many(([1], [[1, 2, 3]]))
        assert await q.size() == 0


async def rows_may_have_no_size(open_session: OpenSession) -> None:
    """Semantics 1.7: rows without a value, such as of shape (0,), are elements like others."""
    async with open_session():
        q = FIFOQueue(10, ["int64", "str"], [(0,), (2, 0)])
        await q.enqueue_many((np.zeros((3, 0), np.int64), np.zeros((3, 2, 0), "U1")))
        assert await q.size() == 3
        numbers, texts = await q.dequeue_many(2)
        assert (numbers.shape, texts.shape) == ((2, 0), (2, 2, 0))


async def a_number_of_elements_is_an_integer(open_session: OpenSession) -> None:
    """Semantics 1.7: n is an integer of 0 to 2**31 - 1, NumPy's included; anything else is refused and harms nobody."""
    async with open_session():
        q = ints()
        await q.enqueue_many([1, 2])
        bad: list[Any] = [-1, 1.0, "1", None, 2**31, 2**70]
        for n in bad:
            for take in (q.dequeue_many, q.dequeue_up_to):
                with refused(SpecMismatch, "number of elements"):
                    await take(n)
            with refused(SpecMismatch, "number of elements"):
                q.batches(n)
        assert (await q.dequeue_many(np.int32(2))).tolist() == [1, 2]


async def a_single_value_is_a_scalar_or_an_array(open_session: OpenSession) -> None:
    """Results: a dequeued scalar is NumPy's or a str or bytes, several components a tuple, a batch arrays."""
    async with open_session():
        q = FIFOQueue(10, ["float32", "str", "bytes", "int8"], [(), (), (), (2,)])
        await q.enqueue((1, "a", b"b", [1, 2]))
        got = await q.dequeue()
        assert type(got) is tuple
        assert [type(value) for value in got] == [np.float32, str, bytes, np.ndarray]
        one = ints()
        await one.enqueue(3)
        assert type(await one.dequeue()) is np.int64


async def the_caller_may_reuse_its_memory(open_session: OpenSession) -> None:
    """Acceptance: after an enqueue or a write has returned the caller may change what it gave, of any size."""
    async with open_session():
        for size in (1, 100, 100_000):
            q = FIFOQueue(10, "int64", (size,))
            buffer = np.zeros((1, size), np.int64)
            for i in range(3):
                buffer[:] = i
                await (q.enqueue(buffer[0]) if i % 2 else q.enqueue_many(buffer))
            async with q.writer(batch=3) as writer:
                for i in range(3, 6):
                    buffer[:] = i
                    await writer.write(buffer[0])
            buffer[:] = -1
            batch = await q.dequeue_many(6)
            assert (batch == np.arange(6)[:, None]).all()


async def a_result_cannot_change_the_queue(open_session: OpenSession) -> None:
    """Results: an array that came out is private or read-only; batches with copy=True are private and writable."""
    async with open_session():
        q = FIFOQueue(100, "int64", (3,))
        block = np.arange(24).reshape(8, 3)
        await q.enqueue_many(block)
        for _ in range(2):
            got = await q.dequeue_many(2)
            if got.flags.writeable:
                got[:] = -1
        got = await q.dequeue()
        if got.flags.writeable:
            got[:] = -1
        await q.close()
        async with q.batches(3, copy=True) as batches:
            batch = await anext(batches)
            assert batch.flags.writeable
            assert batch.tolist() == block[5:].tolist()
            batch[:] = -1
        assert block.tolist() == np.arange(24).reshape(8, 3).tolist()


VALUE_CHECKS = (
    a_malformed_definition_is_refused,
    the_list_of_components_is_a_tuple,
    a_wrong_number_of_components_is_refused,
    names_take_and_give_dicts,
    numbers_must_fit,
    strings_come_back_as_they_went,
    all_components_need_the_same_rows,
    rows_may_have_no_size,
    a_number_of_elements_is_an_integer,
    a_single_value_is_a_scalar_or_an_array,
    the_caller_may_reuse_its_memory,
    a_result_cannot_change_the_queue,
)
