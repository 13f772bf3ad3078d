"""When the groups of a writer go: none early, none later than it must, none larger than it may be."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

from aioflow.client import _writer
from aioflow.client._runs import join_run
from aioflow.errors import QueueClosed, SessionError
from tests.unit.client.test_writer import answer_all, flush

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def test_a_busy_writer_sends_nothing_early(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An element goes when its own delay is over, and not that of one which has gone meanwhile."""
    time = 0.0
    sleeps: list[tuple[float, anyio.Event]] = []

    async def sleep(seconds: float) -> None:
        sleeps.append((seconds, anyio.Event()))
        await sleeps[-1][1].wait()

    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=4, delay_s=10) as writer:
            with monkeypatch.context() as patch:
                patch.setattr(_writer, "now", lambda: time)
                patch.setattr(anyio, "sleep", sleep)
                for i in range(3):
                    await writer.write(i)
                await anyio.wait_all_tasks_blocked()
                time = 9.0
                await writer.write(3)
                await writer.write(4)
                time = 10.0
                sleeps[-1][1].set()
                await anyio.wait_all_tasks_blocked()
                assert [seconds for seconds, _ in sleeps] == [10, 9]
                assert fake_queue.host.log == ["put [0, 1, 2, 3]"]
                time = 19.0
                sleeps[-1][1].set()
                await anyio.wait_all_tasks_blocked()
            assert fake_queue.host.log == ["put [0, 1, 2, 3]", "put [4]"]
            await flush(writer, fake_queue)


async def test_a_full_group_stays_as_it_is(fake_queue: Any) -> None:
    """When another task has waited for what was under way, a full group goes before the next element, without it."""
    with anyio.fail_after(TEST_S):
        async with (
            fake_queue.writer(batch=100, batch_bytes=32, delay_s=60) as writer,
            anyio.create_task_group() as tasks,
        ):
            for i in range(8):
                await writer.write(i)
            tasks.start_soon(writer.flush)
            await anyio.wait_all_tasks_blocked()
            for i in range(8, 12):
                await writer.write(i)
            fake_queue.host.calls[0].answer()
            await anyio.wait_all_tasks_blocked()
            assert len(fake_queue.host.log) == 2
            await writer.write(12)
            assert fake_queue.host.log[2:] == ["put [8, 9, 10, 11]"]
            tasks.start_soon(answer_all, fake_queue)
            await writer.flush()
            tasks.cancel_scope.cancel()
    assert fake_queue.host.log[3:] == ["put [12]"]


async def test_a_group_goes_at_once_when_the_one_before_is_in(fake_queue: Any) -> None:
    """What nobody waited for does not count as under way once it was answered."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=2, delay_s=60) as writer:
            for number in range(3):
                await writer.write(2 * number)
                await writer.write(2 * number + 1)
                assert fake_queue.host.log[number:] == [f"put [{2 * number}, {2 * number + 1}]"]
                fake_queue.host.calls[number].answer()
            await writer.write_many([6, 7])
            assert fake_queue.host.log[3:] == ["put [6, 7]"]
            fake_queue.host.calls[3].answer()


@pytest.mark.parametrize("error", [None, QueueClosed("closed")])
async def test_the_end_of_a_group_that_a_flush_had_waited_for_is_looked_at(fake_queue: Any, error: Any) -> None:
    """Also after a flush that was given up: the next write sends what is enough, or raises what went wrong."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=2, delay_s=60) as writer:
            for number in range(2):
                await writer.write(number)
            with anyio.move_on_after(0.01):
                await writer.flush()
            await writer.write(2)
            call = fake_queue.host.calls[0]
            if error is not None:
                call.waiter.fail(error)
                with pytest.raises(QueueClosed):
                    await writer.write(3)
            else:
                call.answer()
            await writer.write(3)
            assert fake_queue.host.log[1:] == ["put [2, 3]"]
            fake_queue.host.calls[1].answer()


async def test_each_flush_is_told(fake_queue: Any) -> None:
    """Of tasks that flush at once each has its elements in what failed."""
    told: list[str] = []

    async def write_and_flush(value: int) -> None:
        try:
            await writer.write(value)
            await writer.flush()
        except QueueClosed as error:
            told.append(str(error))

    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=8, delay_s=60) as writer, anyio.create_task_group() as tasks:
            for value in range(3):
                tasks.start_soon(write_and_flush, value)
            await anyio.wait_all_tasks_blocked()
            for call in fake_queue.host.calls:
                call.waiter.fail(QueueClosed("closed"))
    assert told == ["closed"] * 3


async def test_an_error_is_met_by_the_next_write(fake_queue: Any) -> None:
    """Not only when a group is full."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=4, delay_s=60) as writer:
            for i in range(5):
                await writer.write(i)
            fake_queue.host.calls[0].waiter.fail(QueueClosed("closed"))
            with pytest.raises(QueueClosed):
                await writer.write(5)
            await flush(writer, fake_queue)
    assert fake_queue.host.log == ["put [0, 1, 2, 3]", "put [4]"]


async def _use_in_child(writer: Any) -> None:
    for call in (partial(writer.write, 1), partial(writer.write_many, [1]), writer.flush):
        with pytest.raises(SessionError, match="parent process"):
            await call()


async def test_a_forked_child_writes_nothing(fake_queue: Any) -> None:
    """The rows of its parent's writer lie in memory that both see."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=8, delay_s=60) as writer:
            await writer.write(0)
            if not (pid := os.fork()):
                code = 1
                try:
                    asyncio.run(_use_in_child(writer))
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
            await writer.write(2)
            await flush(writer, fake_queue)
    assert fake_queue.host.log == ["put [0, 2]"]


async def test_tasks_that_write_at_once(fake_queue: Any) -> None:
    """Elements that fit, such that are converted, and chunks, of several tasks: all go, in groups of the size."""
    written = 0

    async def write(task: int) -> None:
        nonlocal written
        for i in range(40):
            kind = (task + i) % 3
            if kind == 2:
                await writer.write_many([0, 0, 0])
            else:
                await writer.write(np.int64(0) if kind else [0][0])
            written += 3 if kind == 2 else 1
            if i % 7 == task:
                await checkpoint()

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_all, fake_queue)
            async with (
                fake_queue.writer(batch=16, batch_bytes=16 * 8, delay_s=60) as writer,
                anyio.create_task_group() as writers,
            ):
                for task in range(5):
                    writers.start_soon(write, task)
            tasks.cancel_scope.cancel()
    sizes = [entry.count("0") for entry in fake_queue.host.log]
    assert sum(sizes) == written
    assert max(sizes) <= 16 + 2  # a chunk is not split
    assert min(sizes[:-1]) >= 16


async def test_a_group_lies_in_one_piece_of_memory(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows went before: what lies in two pieces would be copied together."""
    joined: list[int] = []

    def note(segments: Any) -> Any:
        joined.append(len(segments))
        return join_run(segments)

    monkeypatch.setattr(_writer, "join_run", note)
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer_all, fake_queue)
            async with fake_queue.writer(batch=5, batch_bytes=8 * 8, delay_s=60) as writer:
                for i in range(40):
                    await writer.write(i)
                    await checkpoint()
            tasks.cancel_scope.cancel()
    assert len(joined) == 8
    assert set(joined) == {1}
