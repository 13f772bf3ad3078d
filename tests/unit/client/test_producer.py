"""A producer registers for the length of a block, and leaves it whatever happens."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.client import _producer
from aioflow.errors import QueueClosed, SessionClosed, SpecMismatch
from aioflow.runtime import Withdrawn, _cancellation
from aioflow.testing._queue_stage import ints, until

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def enter(queue: Any, producer: Any) -> None:
    """Enter a producer of a fake queue."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(producer.__aenter__)
        await anyio.wait_all_tasks_blocked()
        queue.host.calls[-1].answer()


async def test_names_are_distinct(fake_queue: Any) -> None:
    """By default a name says host, process and a number."""
    names = {fake_queue.producer().name for _ in range(3)}
    assert len(names) == 3
    assert fake_queue.producer("mine").name == "mine"
    with pytest.raises(SpecMismatch):
        fake_queue.producer(rejoin_s=-1)


async def test_a_server_that_does_not_answer_does_not_keep_it(fake_queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error leaving waits for the answer within a bound; in order it waits an outage out, until cancelled."""
    monkeypatch.setattr(_producer, "LEAVE_S", 0.01)
    with anyio.fail_after(TEST_S):
        producer = fake_queue.producer("p")
        await enter(fake_queue, producer)
        await producer.__aexit__(ZeroDivisionError, ZeroDivisionError("why"), None)
        await enter(fake_queue, producer)
        with anyio.move_on_after(0.05) as scope:
            await producer.__aexit__(None, None, None)
    assert scope.cancelled_caught
    assert fake_queue.host.log[:4] == ["join p", "leave p ZeroDivisionError: why", "join p", "leave p well"]


@pytest.mark.parametrize("outcome", ["registered", "withdrawn", "the session is over"])
async def test_a_registration_in_doubt_is_taken_back(
    fake_queue: Any, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """A cancelled registration that turns out to have been made counts as lost: else its queue would never end."""
    monkeypatch.setattr(_cancellation, "WITHDRAWAL_S", 0.01)
    fake_queue.host.answers_withdrawals = False
    with anyio.fail_after(TEST_S):
        with anyio.move_on_after(0.01) as scope:
            await fake_queue.producer("p").__aenter__()
        assert scope.cancelled_caught
        join = fake_queue.host.calls[0]
        if outcome == "registered":
            join.answer()
        else:
            join.waiter.fail(Withdrawn(0) if outcome == "withdrawn" else SessionClosed("over"))
    left = [line for line in fake_queue.host.log if line.startswith("leave p Cancelled")]
    assert len(left) == (outcome == "registered")


async def test_the_error_of_the_block_stays_the_error(fake_queue: Any) -> None:
    """What goes wrong with leaving is raised, but not over the block's own error."""
    producer = fake_queue.producer("p")
    await enter(fake_queue, producer)
    fake_queue.host.error = QueueClosed("gone")
    with pytest.raises(QueueClosed):
        await producer.__aexit__(None, None, None)
    await producer.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)


async def test_a_name_in_use_is_refused_after_a_while() -> None:
    """A name in use waits lost_s + 1 s for its holder to go, and then is an error that says what to do."""
    config = flow.SessionConfig(heartbeat_s=0.01, lost_s=0.05)
    queue = flow.FIFOQueue(10, "int64", ())
    with anyio.fail_after(TEST_S):
        async with flow.Session(config=config), queue.producer("p"):
            with pytest.raises(SpecMismatch, match="'p' is registered"):
                await queue.producer("p").__aenter__()
            assert (await queue.stats()).producers == ("p",)


async def test_a_name_that_becomes_free_is_taken_over() -> None:
    """A registration waits for its name, and can be cancelled meanwhile without a trace."""
    queue = flow.FIFOQueue(10, "int64", ())
    with anyio.fail_after(TEST_S):
        async with flow.Session(), anyio.create_task_group() as tasks:
            async with queue.producer("other"):
                async with queue.producer("p"):
                    async with anyio.create_task_group() as waiting:
                        waiting.start_soon(queue.producer("p").__aenter__)
                        await anyio.wait_all_tasks_blocked()
                        waiting.cancel_scope.cancel()
                    second = queue.producer("p")
                    tasks.start_soon(second.__aenter__)
                    await anyio.wait_all_tasks_blocked()
                await anyio.wait_all_tasks_blocked()
                await until(queue, producers=("other", "p"))
            assert not await queue.is_closed()
            await second.__aexit__(None, None, None)
            assert await queue.is_closed()


async def test_a_lost_name_may_come_back() -> None:
    """With rejoin_s a producer that failed counts as gone only when its name has not come back in time."""
    queue = flow.FIFOQueue(10, "int64", ())
    with anyio.fail_after(TEST_S):
        async with flow.Session():
            with pytest.raises(ZeroDivisionError):
                async with queue.producer("p", rejoin_s=60):
                    raise ZeroDivisionError
            assert not await queue.is_closed()
            async with queue.producer("p", rejoin_s=0.01):
                pass
            with pytest.raises(flow.EndOfQueue) as caught:
                await queue.dequeue()
            assert caught.value.lost_producers == ()
            late = flow.FIFOQueue(10, "int64", ())
            with pytest.raises(ZeroDivisionError):
                async with late.producer("p", rejoin_s=0.01):
                    raise ZeroDivisionError
            with pytest.raises(flow.EndOfQueue) as caught:
                await late.dequeue()
            assert [lost.name for lost in caught.value.lost_producers] == ["p"]


async def test_a_server_logs_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    """Who left by an exception, or with its session, in one line each; an embedded session logs nothing."""
    q = ints(10, shared_name="train")
    async with flow.Server({"local": ["inproc://losses"]}) as server:
        for session in (flow.Session(), flow.Session(server)):
            async with session:
                async with q.producer("fine"), q.producer("stays"):
                    with pytest.raises(ValueError, match="the file"):
                        async with q.producer("loader-3"):
                            raise ValueError("the file\nis truncated")
                await q.delete()
                await q.producer("left").__aenter__()
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            "aioflow.server",
            logging.WARNING,
            "queue 'train' lost producer 'loader-3': ValueError: the file is truncated",
        ),
        ("aioflow.server", logging.WARNING, "queue 'train' lost producer 'left': its session was closed"),
    ]
