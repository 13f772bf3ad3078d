"""Background tasks start, stop and end whatever happens to those who start and stop them."""

from __future__ import annotations

import asyncio

import anyio
import pytest
import trio

from aioflow.runtime import Background
from aioflow.runtime._turns import on_asyncio

TEST_S = 5.0


class Errors(list[BaseException]):
    """What a background reports."""


@pytest.mark.anyio
async def test_stop_ends_what_was_started() -> None:
    """Tasks of the group run until `stop`, which returns when they have ended; a second stop does nothing."""
    ended = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    errors = Errors()
    with anyio.fail_after(TEST_S):
        background = Background(errors.append)
        group = await background.start()
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        await background.stop()
        assert ended == [True]
        await background.stop()
    assert errors == []


@pytest.mark.anyio
async def test_stop_without_a_start_returns() -> None:
    """An object may be closed that was never opened."""
    with anyio.fail_after(TEST_S):
        await Background(Errors().append).stop()


@pytest.mark.anyio
async def test_an_error_is_reported() -> None:
    """An error of a task ends the group and is given to the owner; `stop` does not raise it."""
    errors = Errors()

    async def fail() -> None:
        raise ZeroDivisionError

    with anyio.fail_after(TEST_S):
        background = Background(errors.append)
        group = await background.start()
        group.start_soon(fail)
        await anyio.wait_all_tasks_blocked()
        await background.stop()
    (error,) = errors
    assert isinstance(error, ExceptionGroup)


@pytest.mark.anyio
async def test_a_cancelled_start_leaves_nothing() -> None:
    """A start that is cancelled stops what it has begun."""
    with anyio.fail_after(TEST_S):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await Background(Errors().append).start()
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_cancelled_stop_stops() -> None:
    """A stop that is cancelled, by a scope or by the task itself, ends the tasks first."""
    release = anyio.Event()
    ended = []

    async def run() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await release.wait()
            ended.append(True)

    with anyio.fail_after(TEST_S):
        background = Background(Errors().append)
        group = await background.start()
        group.start_soon(run)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(background.stop)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            await _turns()
            assert ended == []
            release.set()
        assert ended == [True]

    if on_asyncio():
        release, ended = anyio.Event(), []
        other = await background_with(run)
        stopping = asyncio.ensure_future(other.stop())
        for _ in range(3):
            await _turns()
            stopping.cancel()
        await _turns()
        assert not stopping.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert ended == [True]


def test_an_interrupt_on_trio_reaches_the_main_task() -> None:
    """Trio raises Ctrl-C in whichever task runs, one of these too: it ends the program as it should, and quietly."""
    errors = Errors()

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        background = Background(errors.append)
        group = await background.start()
        group.start_soon(interrupted)
        try:
            await trio.sleep_forever()
        finally:
            await background.stop()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert len(errors) == 1


async def background_with(run: object) -> Background:
    """Start a background with one task."""
    background = Background(Errors().append)
    group = await background.start()
    group.start_soon(run)  # type: ignore[arg-type]
    await anyio.wait_all_tasks_blocked()
    return background


async def _turns() -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
