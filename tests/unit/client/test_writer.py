"""A writer groups what is written, and loses no error and no count."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aioflow as flow
from aioflow.client import _writer
from aioflow.errors import ConnectionLost, QueueClosed, SpecMismatch
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


async def test_groups_by_count_and_bytes(fake_queue: Any) -> None:
    """A group goes when it has its count or its bytes; the exit sends the rest and waits for the answers."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_all, fake_queue)
        async with fake_queue.writer(batch=2, delay_s=60) as writer:
            for i in range(5):
                await writer.write(i)
        async with fake_queue.writer(batch=100, batch_bytes=24, delay_s=60) as writer:
            for i in range(4):
                await writer.write(i)
        tasks.cancel_scope.cancel()
    assert fake_queue.host.log == ["put [0, 1]", "put [2, 3]", "put [4]", "put [0, 1, 2]", "put [3]"]


async def test_two_groups_are_under_way(fake_queue: Any) -> None:
    """A write waits while two groups are under way; a cancelled write has not buffered its element."""
    with anyio.fail_after(TEST_S):
        async with fake_queue.writer(batch=1, delay_s=60) as writer:
            await writer.write(1)
            await writer.write(2)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.write, 3)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            assert len(fake_queue.host.calls) == 2
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.write, 4)
                await anyio.wait_all_tasks_blocked()
                fake_queue.host.calls[0].answer()
            for call in fake_queue.host.calls[1:]:
                call.answer()
    assert fake_queue.host.log == ["put [1]", "put [2]", "put [4]"]


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
            for call in fake_queue.host.calls:
                call.answer()


async def test_a_delayed_group_that_cannot_go_is_reported(fake_queue: Any) -> None:
    """An error of the host, such as a lost connection, reaches the writer as it is."""
    with anyio.fail_after(TEST_S), pytest.raises(ConnectionLost):
        async with fake_queue.writer(batch=10, delay_s=0.001) as writer:
            await writer.write(1)
            fake_queue.host.error = ConnectionLost("gone")
            while writer._error is None:
                await anyio.lowlevel.checkpoint()
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
