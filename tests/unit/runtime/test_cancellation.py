"""A cancellation that comes in the moment of a success is neither lost nor believed too early."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from aioflow.errors import QueueClosed
from aioflow.runtime import Waiter, Withdrawn, begin_call, complete_put, finish
from aioflow.runtime import _cancellation as cancellation
from aioflow.runtime._cancellation import await_outcome
from aioflow.runtime._turns import on_asyncio

pytestmark = pytest.mark.anyio

TEST_S = 5.0


class Put:
    """A call whose withdrawal is answered when the test says so."""

    def __init__(self, answer: BaseException | None = None, *, at_once: bool = True) -> None:
        self.waiter: Waiter[None] = Waiter()
        self.withdrawals = 0
        self._answer = answer
        self._at_once = at_once

    def settle(self) -> None:
        """Answer."""
        if self._answer is None:
            self.waiter.resolve(None)
        else:
            self.waiter.fail(self._answer)

    def columns(self) -> tuple[()]:
        """A put has none."""
        return ()

    def acknowledge(self) -> None:
        """Do nothing."""

    def withdraw(self) -> None:
        """Count, and answer."""
        self.withdrawals += 1
        if self._at_once:
            self.settle()


async def cancelled_put(put: Put) -> list[str]:
    """Cancel a waiting put; return the notes of the cancellation, which goes on."""
    notes: list[str] = []

    async def run() -> None:
        try:
            await complete_put(put)
        except BaseException as error:
            notes.extend(getattr(error, "__notes__", []))
            raise

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert put.withdrawals == 1
    return notes


async def test_a_withdrawn_put_says_how_many_rows_are_in() -> None:
    """The cancellation goes on, with a note where rows stay in, and where it met a close."""
    assert await cancelled_put(Put(Withdrawn(0))) == []
    assert await cancelled_put(Put(Withdrawn(3))) == ["aioflow: 3 rows are in the queue and stay in"]
    closed = QueueClosed("closed")
    closed.add_note("2 of 5 rows are in the queue and stay in")
    assert await cancelled_put(Put(closed)) == ["aioflow: 2 of 5 rows are in the queue and stay in"]


async def test_a_put_without_an_answer_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a withdrawal is waited for within a bound; then the cancellation goes on and says so."""
    monkeypatch.setattr(cancellation, "WITHDRAWAL_S", 0.01)
    notes = await cancelled_put(Put(at_once=False))
    assert len(notes) == 1
    assert "in doubt" in notes[0]


async def test_the_outcome_is_waited_for_through_cancellations() -> None:
    """A cancelled scope and, on asyncio, further cancellations of the task do not end the wait for the outcome."""
    waiter: Waiter[None] = Waiter()
    results: list[bool] = []
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                results.append(await await_outcome(waiter))

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            waiter.resolve(None)
        assert results == [True]


async def test_finish_runs_to_its_end() -> None:
    """What closes is run to its end although the caller is cancelled, whose cancellation goes on afterwards."""
    steps = []

    async def close() -> None:
        for i in range(5):
            await anyio.lowlevel.checkpoint()
            steps.append(i)

    with anyio.fail_after(TEST_S):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await finish(close)
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert steps == list(range(5))
        if on_asyncio():
            steps.clear()
            task = asyncio.ensure_future(finish(close))
            for _ in range(3):
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert steps == list(range(5))


async def test_finish_raises_what_the_closing_raised() -> None:
    """An error of the closing reaches the caller."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await finish(fail)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestOwed:
    """What a put that was accepted owes to the cancellation that it swallowed, on asyncio."""

    async def test_the_next_call_raises_it(self) -> None:
        """A task that only puts does not run on for ever."""
        ended = []

        async def run() -> None:
            await complete_put(Put())  # cancelled, and accepted
            ended.append("returned")
            await begin_call()
            ended.append("went on")

        task = asyncio.ensure_future(run())
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["returned"]

    async def test_a_timeout_that_has_passed_owes_nothing(self) -> None:
        """After the block of `asyncio.timeout` nobody is being cancelled any more."""
        put = Put(at_once=False)
        async with asyncio.timeout(None) as timeout:
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: timeout.reschedule(loop.time() - 1))
            loop.call_later(0.01, put.settle)
            await complete_put(put)
        assert put.withdrawals == 1
        await begin_call()

    async def test_a_scope_of_anyio_catches_it(self) -> None:
        """The cancellation that is raised late is still known to the scope that caused it."""
        put = Put()
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            await complete_put(put)
            await begin_call()
        assert scope.cancelled_caught
        await begin_call()

    async def test_a_task_group_ends(self) -> None:
        """A sibling's error cancels a putting task, which ends at its next call."""
        calls = 0

        async def put_for_ever() -> None:
            nonlocal calls
            while True:
                await begin_call()
                calls += 1
                await complete_put(Put())

        async def fail() -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async def run_both() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(put_for_ever())
                tasks.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await run_both()
        assert calls == 1
