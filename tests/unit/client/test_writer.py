"""A writer groups what is written, and loses no error and no count."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

import aioflow as flow
from aioflow.client import _writer
from aioflow.client._group_size import GROWTH
from aioflow.errors import ConnectionLost, QueueClosed, SessionError, SpecMismatch
from aioflow.testing._queue_stage import until

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def answer_all(queue: Any) -> None:
    """Answer whatever comes."""
    done = 0
    while True:
        for call in queue.host.calls[done:]:
            call.answer()
            done += 1
        await anyio.sleep(0)


async def flush(writer: Any, queue: Any) -> None:
    """Flush while whatever comes is answered."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, queue)
        await writer.flush()
        tasks.cancel_scope.cancel()


async def test_groups_by_count_and_bytes(fake_queue: Any) -> None:
    """A group goes when it has its count or its bytes; the exit sends the rest and waits for the answers."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, fake_queue)
        async with fake_queue.writer(batch=2, delay_s=60) as writer:
            for i in range(5):
                await writer.write(i)
                await checkpoint()
        async with fake_queue.writer(batch=100, batch_bytes=24, delay_s=60) as writer:
            for i in range(4):
                await writer.write(i)
                await checkpoint()
        tasks.cancel_scope.cancel()
    assert fake_queue.host.log == ["put [0, 1]", "put [2, 3]", "put [4]", "put [0, 1, 2]", "put [3]"]


async def test_two_groups_are_under_way(fake_queue: Any) -> None:
    """While one is under way the next grows and goes when it is full; a write waits when a third is full."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=1, delay_s=60) as writer:
            for i in range(1 + 2 * GROWTH):
                await writer.write(i)
            assert len(fake_queue.host.calls) == 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.write, 98)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            assert len(fake_queue.host.calls) == 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.write, 99)
                await anyio.wait_all_tasks_blocked()
                fake_queue.host.calls[0].answer()
            await flush(writer, fake_queue)
    second, third = [list(range(1 + n * GROWTH, 1 + (n + 1) * GROWTH)) for n in range(2)]
    assert fake_queue.host.log == ["put [0]", f"put {second}", f"put {third}", "put [99]"]


@pytest.mark.parametrize("shape", [[4], [None]])
async def test_rows_behind_a_group_that_went_early_go_by_themselves(shape: list[int | None]) -> None:
    """The delay holds for what is written without a look, also where the group before had gone in parts."""
    kind: Any = flow.FIFOQueue if shape == [4] else flow.PaddingFIFOQueue
    q = kind(100, "int64", [shape])
    row = np.arange(4)
    with anyio.fail_after(TEST_S):
        async with flow.Session(), q.writer(batch=4, delay_s=0.01) as writer:
            for _ in range(3):
                await writer.write(row)
            await writer.flush()
            while writer._is_late:
                await checkpoint()
            for _ in range(4):
                await writer.write(row)
            assert len(await q.dequeue_many(7)) == 7


async def test_an_element_that_waits_is_copied_once(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits the block exactly goes there when there is room; it is not converted before the wait, which copies."""
    monkeypatch.setattr(type(fake_queue), "_convert", lambda *_, **__: pytest.fail("converted"))
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=1, delay_s=60) as writer:
            for i in range(1 + 2 * GROWTH):
                await writer.write(np.int64(i))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.write, np.int64(99))
                await anyio.wait_all_tasks_blocked()
                fake_queue.host.calls[0].answer()
            await flush(writer, fake_queue)
    assert fake_queue.host.log[-1] == "put [99]"


async def test_a_group_goes_when_one_under_way_has_ended(fake_queue: Any) -> None:
    """What grew while a group was under way goes with the first write after it has ended."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=1, delay_s=60) as writer:
            for i in range(4):
                await writer.write(i)
            fake_queue.host.calls[0].answer()
            await writer.write(4)
            assert fake_queue.host.log[1:] == ["put [1, 2, 3]"]
            await flush(writer, fake_queue)
    assert fake_queue.host.log[2:] == ["put [4]"]


async def test_errors_surface_once(fake_queue: Any) -> None:
    """The error of a group surfaces at the next write or at the exit, and is no group of errors."""
    with anyio.fail_after(TEST_S):
        with pytest.raises(QueueClosed):
            async with fake_queue.writer(batch=1) as writer:
                await writer.write(1)
                fake_queue.host.calls[0].waiter.fail(QueueClosed("closed"))
        async with fake_queue.writer(batch=1) as writer:
            await writer.write(1)
            fake_queue.host.calls[1].waiter.fail(QueueClosed("closed"))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(QueueClosed):
                for i in range(3):
                    await writer.write(i)
            await flush(writer, fake_queue)


async def test_a_delayed_group_that_cannot_go_is_reported(fake_queue: Any) -> None:
    """An error of the host, such as a lost connection, reaches the writer as it is."""
    with anyio.fail_after(TEST_S), pytest.raises(ConnectionLost):
        async with fake_queue.writer(batch=10, delay_s=0.001) as writer:
            await writer.write(1)
            fake_queue.host.error = ConnectionLost("gone")
            while writer._error is None:
                await checkpoint()
            await writer.write(2)


async def test_the_error_of_the_block_stays_the_error(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed block flushes within a bound and notes how many elements did not go, also where nothing can be sent."""
    monkeypatch.setattr(_writer, "EXIT_S", 0.01)
    with anyio.fail_after(TEST_S):
        for error in (None, ConnectionLost("gone")):
            fake_queue.host.error = None
            with pytest.raises(ZeroDivisionError) as caught:
                async with fake_queue.writer(batch=2, delay_s=60) as writer:
                    for i in range(3):
                        await writer.write(i)
                    fake_queue.host.error = error
                    raise ZeroDivisionError
            assert len(caught.value.__notes__) == 1
            assert "3 elements of the writer on 'fake' were not accepted" in caught.value.__notes__[0]


async def test_a_cancelled_exit_notes_the_number(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled exit flushes within a bound, withdraws what was not answered, and says how many that were."""
    monkeypatch.setattr(_writer, "EXIT_S", 0.01)
    notes: list[str] = []

    async def write() -> None:
        try:
            async with fake_queue.writer(batch=2, delay_s=60) as writer:
                for i in range(3):
                    await writer.write(i)
        except BaseException as error:
            notes.extend(error.__notes__)
            raise

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            fake_queue.host.calls[0].answer()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert len(notes) == 1
    assert "1 elements" in notes[0]
    assert fake_queue.host.log[-1] == "withdraw put [2]"


@pytest.mark.parametrize("error", [None, ZeroDivisionError()], ids=["in order", "by an error"])
@pytest.mark.parametrize("place", ["embedded", "server"])
async def test_a_write_that_waits_when_another_task_leaves(
    place: str, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with an error that says so, and its element does not go."""
    monkeypatch.setattr(_writer, "EXIT_S", 0.05)
    refused = anyio.Event()

    async def write(writer: flow.Writer) -> None:
        with pytest.raises(SessionError, match="is not open"):
            await writer.write(99)
        refused.set()

    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(TEST_S))
        server = await stack.enter_async_context(flow.Server({"local": ["inproc://writer-left"]}))
        session = await stack.enter_async_context(flow.Session(server if place == "server" else ""))
        queue = flow.FIFOQueue(40, "int64", (), shared_name="left").on(session)
        await queue.enqueue_many(range(40))
        writer = await queue.writer(batch=1, delay_s=60).__aenter__()
        written = list(range(40, 41 + 2 * GROWTH))  # two groups under way, and one that is full
        for i in written:
            await writer.write(i)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(write, writer)
        await until(queue, puts_waiting=2)
        if error is None:
            tasks.start_soon(writer.__aexit__, None, None, None)
            await until(queue, puts_waiting=3)
            assert [int(await queue.dequeue()) for _ in range(40 + len(written))] == [*range(40), *written]
        else:
            await writer.__aexit__(type(error), error, None)
            assert f"up to {len(written)} elements" in error.__notes__[-1]
        await refused.wait()
        assert await queue.size() == (0 if error is None else 40)


async def test_chunks_are_grouped(fake_queue: Any) -> None:
    """`write_many` buffers rows in order with single elements, and a group goes when it has its count or its bytes."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, fake_queue)
        async with fake_queue.writer(batch=4, delay_s=60) as writer:
            await writer.write(1)
            await checkpoint()
            await writer.write_many([2, 3])
            await checkpoint()
            await writer.write_many([])
            await checkpoint()
            await writer.write(4)
            await checkpoint()
            await writer.write_many([5, 6, 7, 8, 9])
            await checkpoint()
            await writer.write_many([10])
            await checkpoint()
        async with fake_queue.writer(batch=100, batch_bytes=24, delay_s=60) as writer:
            await writer.write_many([1, 2])
            await checkpoint()
            await writer.write_many([3, 4])
            await checkpoint()
            await writer.write_many([5])
            await checkpoint()
        tasks.cancel_scope.cancel()
    assert fake_queue.host.log == [
        "put [1, 2, 3, 4]",
        "put [5, 6, 7, 8, 9]",
        "put [10]",
        "put [1, 2, 3, 4]",
        "put [5]",
    ]


async def test_a_chunk_that_does_not_fit(fake_queue: Any) -> None:
    """`write_many` refuses what `enqueue_many` refuses, and nothing of it is buffered."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, fake_queue)
        async with fake_queue.writer(delay_s=60) as writer:
            for wrong in (7, [[1]], ["a"], [0.5]):
                with pytest.raises(SpecMismatch):
                    await writer.write_many(wrong)
            await writer.write(1)
        with pytest.raises(flow.SessionError):
            await writer.write_many([1])
        tasks.cancel_scope.cancel()
    assert fake_queue.host.log == ["put [1]"]


async def test_the_note_counts_rows(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What did not go is counted in elements, whether they came one by one or in chunks."""
    monkeypatch.setattr(_writer, "EXIT_S", 0.01)
    with anyio.fail_after(TEST_S), pytest.raises(ZeroDivisionError) as caught:
        async with fake_queue.writer(batch=3, delay_s=60) as writer:
            await writer.write_many([1, 2, 3, 4])
            await writer.write_many([5, 6])
            raise ZeroDivisionError
    assert "6 elements of the writer on 'fake' were not accepted" in caught.value.__notes__[0]


async def test_what_was_written_is_sent_after_a_while(fake_queue: Any) -> None:
    """Also the second time: what was written meanwhile is not forgotten."""
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_all, fake_queue)
            async with fake_queue.writer(batch=100, delay_s=0.001) as writer:
                for i in range(1, 4):
                    await writer.write(i)
                    while len(fake_queue.host.log) < i:
                        await checkpoint()
            tasks.cancel_scope.cancel()


async def test_a_group_that_went_in_part_is_completed(fake_queue: Any) -> None:
    """What follows an early flush is its rest, so that later groups are where they would have been without it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, fake_queue)
        async with fake_queue.writer(batch=4, delay_s=60) as writer:
            await writer.write(0)
            await writer.flush()
            await writer.write_many([1, 2])
            await writer.flush()
            for i in range(3, 12):
                await writer.write(i)
                await checkpoint()
        tasks.cancel_scope.cancel()
    assert fake_queue.host.log == ["put [0]", "put [1, 2]", "put [3]", "put [4, 5, 6, 7]", "put [8, 9, 10, 11]"]


@pytest.mark.parametrize("kind", ["FIFOQueue", "PriorityQueue"])
async def test_elements_come_out_as_they_went_in(kind: str) -> None:
    """Whatever way an element takes through a writer: exact arrays, those to convert, and rows in chunks."""
    shapes: Any = [[3], []]
    queue: Any = (
        flow.FIFOQueue(1000, ["float32", "int8"], shapes, names=["x", "y"])
        if kind == "FIFOQueue"
        else flow.PriorityQueue(1000, ["float32", "int8"], shapes, names=["priority", "x", "y"])
    )
    reused = np.zeros(3, np.float32)
    values: list[Any] = [reused, np.ones((3, 2), np.float32)[:, 0], np.full(3, 2.0), [3, 3, 3], reused]

    def element(value: Any, number: Any) -> dict[str, Any]:
        priority = {"priority": number} if kind == "PriorityQueue" else {}
        return {**priority, "x": value, "y": number}

    async with flow.Session(), queue.writer(delay_s=60) as writer:
        for number, value in enumerate(values):
            reused[:] = number
            await writer.write(element(value, number if number % 2 else np.int8(number)))
        for wrong in (300, -129, 0.5, True + 0.0, None, "a"):
            with pytest.raises(SpecMismatch):
                await writer.write(element(reused, wrong))
        with pytest.raises(SpecMismatch):
            await writer.write((reused, 1))
        await writer.write_many(element([[5, 5, 5], [6, 6, 6]], [5, 6]))
        await writer.flush()
        got = await queue.dequeue_many(7)
    assert got["y"].tolist() == list(range(7))
    assert got["x"].tolist() == [[x] * 3 for x in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]


@pytest.mark.parametrize("place", ["embedded", "inproc"])
@pytest.mark.parametrize("kind", ["FIFOQueue", "RandomShuffleQueue", "PriorityQueue"])
async def test_strings_come_out_as_they_went_in(kind: str, place: str) -> None:
    """Short ones, one that has memory of its own, and what has to be looked at first."""
    values: list[Any] = ["a", b"", np.str_("\u00e4"), b"x" * (3 << 20), "y" * 100_000, np.bytes_(b"z\0")] * 3
    options: Any = {"shared_name": "strings"}
    queue: Any
    if kind == "PriorityQueue":
        queue = flow.PriorityQueue(1000, "bytes", [[]], **options)
    else:
        extra = (0,) if kind == "RandomShuffleQueue" else ()
        queue = getattr(flow, kind)(1000, *extra, ["int64", "bytes"], [[], []], **options)
    async with (
        flow.Server({"local": ["inproc://strings"]}) as server,
        flow.Session(server if place == "inproc" else None),
        queue.writer(delay_s=60) as writer,
    ):
        for number, value in enumerate(values):
            await writer.write((number, value))
        for wrong in (None, 7, [b"a"], np.zeros(3, np.uint8)):
            with pytest.raises(SpecMismatch):
                await writer.write((0, wrong))
        await writer.flush()
        numbers, got = await queue.dequeue_many(len(values))
    expected = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
    assert dict(zip(numbers.tolist(), got.tolist(), strict=True)) == dict(enumerate(expected))
    assert kind == "RandomShuffleQueue" or numbers.tolist() == [*range(len(values))]


@pytest.mark.parametrize(("size", "batch_bytes"), [(1 << 18, 1 << 20), (1 << 18, 3 << 20), (3 << 20, 1 << 20)])
async def test_large_elements(size: int, batch_bytes: int) -> None:
    """Groups above and below what a writer allocates at once, and elements larger than it."""
    queue = flow.FIFOQueue(100, "uint8", (size,))
    async with flow.Session(), queue.writer(batch_bytes=batch_bytes, delay_s=60) as writer:
        for i in range(14):
            await writer.write(np.full(size, i, np.uint8))
        await writer.flush()
        assert [int((await queue.dequeue())[-1]) for _ in range(14)] == list(range(14))


@pytest.mark.parametrize("place", ["embedded", "inproc"])
async def test_a_closing_session_flushes_its_writers(place: str) -> None:
    """What is buffered is accepted when the session is closed within the writer's block; later writes are refused."""
    queue = flow.FIFOQueue(100, "int64", (), shared_name="flushed")
    async with flow.Server({"local": ["inproc://flushes"]}) as server, flow.Session(server) as other:
        session = await flow.Session(server if place == "inproc" else None).open()
        with pytest.raises(flow.SessionClosed):
            async with queue.on(session).writer(delay_s=60) as writer:
                await writer.write(1)
                await session.close()
                if place == "inproc":
                    await until(queue.on(other), size=1)
                await writer.write(2)


async def test_a_closing_session_flushes_its_writers_in_order() -> None:
    """In the order in which they were entered, in every process."""
    queue = flow.FIFOQueue(100, "int64", (), shared_name="flushed")
    async with flow.Server({"local": ["inproc://flushes"]}) as server, flow.Session(server) as other:
        session = await flow.Session(server).open()
        with pytest.raises(flow.SessionClosed):
            async with AsyncExitStack() as stack:
                writers = [queue.on(session).writer(delay_s=60) for _ in range(20)]
                for i, writer in enumerate(writers):
                    await stack.enter_async_context(writer)
                    await writer.write(i)
                await session.close()
                await writers[0].write(99)
        assert (await queue.on(other).dequeue_many(20)).tolist() == list(range(20))


@pytest.mark.parametrize("place", ["embedded", "inproc"])
async def test_a_writer_that_failed_does_not_keep_its_session_open(place: str) -> None:
    """A session closes although a writer's group failed; the writer's own exit raises it."""
    queue = flow.FIFOQueue(100, "int64", (), shared_name="failed")
    async with flow.Server({"local": ["inproc://fails"]}) as server:
        session = await flow.Session(server if place == "inproc" else None).open()
        with pytest.raises(QueueClosed):
            async with queue.on(session).writer(delay_s=60) as writer:
                await writer.write(1)
                await queue.on(session).close()
                await session.close()
        with pytest.raises(flow.SessionClosed):
            await queue.on(session).size()


async def test_arguments_are_checked() -> None:
    """A writer needs numbers above 0."""
    queue = flow.FIFOQueue(10, "int64", ())
    for arguments in ({"batch": 0}, {"batch_bytes": 0}, {"delay_s": 0}):
        with pytest.raises(SpecMismatch):
            queue.writer(**arguments)
