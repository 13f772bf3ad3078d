"""A crew's tasks do one job after the other, and no job learns what another has done in its task."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import numpy as np
import pytest

from aioflow.runtime import Crew
from aioflow.runtime._turns import on_asyncio

TEST_S = 5.0

note: ContextVar[str] = ContextVar("note", default="")
array: ContextVar[Any] = ContextVar("array")


@pytest.mark.anyio
async def test_jobs_run_at_once_and_tasks_are_used_again() -> None:
    """Each of many jobs begins although others wait; the next ones are done by the tasks that are free."""
    crew, gate, tasks = Crew(), anyio.Event(), list[int]()

    async def wait() -> None:
        tasks.append(anyio.get_current_task().id)
        await gate.wait()

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                crew.start_soon(group, wait)
            await anyio.wait_all_tasks_blocked()
            assert len(set(tasks)) == 3
            gate.set()
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                crew.start_soon(group, wait)
            await anyio.wait_all_tasks_blocked()
            assert len(tasks) == 6
            assert len(set(tasks)) == 3
            group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_changed_context_is_not_seen_by_the_next_job() -> None:
    """A kernel may set a context variable, as NumPy's error handling is one, and nobody else is to have it."""
    crew, seen = Crew(), list[str]()

    async def change() -> None:
        seen.append(note.get())
        note.set("changed")

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                crew.start_soon(group, change)
                await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert seen == [""] * 3


@pytest.mark.anyio
async def test_values_of_a_context_are_not_compared() -> None:
    """An array has no truth: a job may set a variable to one that was another one before."""
    crew, seen = Crew(), list[Any]()
    first = np.zeros(2)
    token = array.set(first)

    async def change() -> None:
        seen.append(array.get())
        array.set(np.zeros(2))

    try:
        with anyio.fail_after(TEST_S):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    crew.start_soon(group, change)
                    await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
    finally:
        array.reset(token)
    assert [value is first for value in seen] == [True] * 3


@pytest.mark.anyio
async def test_a_cancelled_job_leaves_nothing_to_the_next() -> None:
    """Whether a job cancels its own task, or somebody else the idle one: every job that was given is done."""
    crew, done = Crew(), list[int]()
    idle: Any = None

    async def cancel_itself() -> None:
        nonlocal idle
        done.append(1)
        if on_asyncio():
            task = idle = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            task.cancel()

    async def take_task() -> None:
        nonlocal idle
        done.append(1)
        idle = asyncio.current_task() if on_asyncio() else None

    with anyio.fail_after(TEST_S):
        async with anyio.create_task_group() as group:
            for job in (cancel_itself, cancel_itself, take_task):
                crew.start_soon(group, job)
                await anyio.wait_all_tasks_blocked()
            crew.start_soon(group, take_task)  # given to the idle task, which is cancelled before it begins
            if idle is not None:
                idle.cancel()
            await anyio.wait_all_tasks_blocked()
            crew.start_soon(group, take_task)
            await anyio.wait_all_tasks_blocked()
            if idle is not None:  # idle, and cancelled: the next one has another
                idle.cancel()
                await anyio.wait_all_tasks_blocked()
            crew.start_soon(group, take_task)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert len(done) == 6
