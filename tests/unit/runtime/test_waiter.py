"""A waiter is set once, and survives the cancellation of a wait."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aioflow.runtime import Waiter

pytestmark = pytest.mark.anyio

TEST_S = 5.0


async def test_a_value_set_before_the_wait_is_returned_at_once() -> None:
    """A wait for what is set does not wait, and may be repeated."""
    waiter: Waiter[int] = Waiter()
    assert not waiter.is_set
    waiter.resolve(3)
    assert waiter.is_set
    assert (await waiter.wait(), await waiter.wait()) == (3, 3)


async def test_the_first_outcome_holds() -> None:
    """What is set later, value or error, changes nothing."""
    waiter: Waiter[int] = Waiter()
    waiter.fail(ZeroDivisionError())
    waiter.resolve(3)
    waiter.fail(KeyError())
    with pytest.raises(ZeroDivisionError):
        await waiter.wait()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_waiting_task_is_woken(fails: bool) -> None:
    """Setting wakes the waiting task, which runs later and never from within."""
    waiter: Waiter[int] = Waiter()
    seen: list[object] = []

    async def wait() -> None:
        try:
            seen.append(await waiter.wait())
        except ZeroDivisionError as error:
            seen.append(error)

    error = ZeroDivisionError()
    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            waiter.fail(error) if fails else waiter.resolve(5)
            assert seen == []
    assert seen == [error if fails else 5]


async def test_a_cancelled_wait_can_be_repeated() -> None:
    """Cancelling a wait leaves the waiter as it is: set before or after, its outcome is there for the next wait."""
    waiter: Waiter[int] = Waiter()
    with anyio.fail_after(TEST_S):
        for _ in range(3):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(waiter.wait)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            assert not waiter.is_set
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiter.wait)
            await anyio.wait_all_tasks_blocked()
            waiter.resolve(7)
        assert await waiter.wait() == 7


async def test_a_cancellation_in_the_moment_of_the_outcome_loses_nothing() -> None:
    """Set and cancelled in one turn: the wait may end either way, and the outcome is there afterwards."""
    for cancel_first in (False, True):
        waiter: Waiter[int] = Waiter()
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waiter.wait)
                await anyio.wait_all_tasks_blocked()
                if cancel_first:
                    tasks.cancel_scope.cancel()
                waiter.resolve(1)
                tasks.cancel_scope.cancel()
            await checkpoint()
            assert await waiter.wait() == 1
