"""Tasks that do one job after the other: to start a task of anyio's costs several times what a small job does.

A job finds a task as if it were new: one whose job has changed its context, or was cancelled, is not used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from aioflow.runtime._cancellation import has_debts
from aioflow.runtime._turns import on_asyncio
from aioflow.runtime._waiter import Waiter

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Crew"]

Job = Callable[[], Coroutine[Any, Any, None]]

# Tasks that wait for a job: as many as begin in the same moment in a busy server.
IDLE_MAX = 64


class Crew:
    """Runs jobs at once, each in a task that does nothing else meanwhile; the tasks are a group's, and end with it."""

    def __init__(self) -> None:
        self._idle: list[Waiter[Job]] = []

    def start_soon(self, group: TaskGroup, job: Job) -> None:
        """Have a job done."""
        if self._idle:
            self._idle.pop().resolve(job)
        else:
            group.start_soon(self._work, group, job)

    async def _work(self, group: TaskGroup, job: Job) -> None:
        clean = copy_context()
        while True:
            await job()
            if len(self._idle) >= IDLE_MAX or await _was_cancelled() or _is_changed(clean):
                return
            waiter: Waiter[Job] = Waiter()
            self._idle.append(waiter)
            try:
                job = await waiter.wait()
            except asyncio.CancelledError:  # of this task alone, or of the whole group, which ends what begins there
                if waiter.is_set:
                    group.start_soon(self._work, group, waiter.value)
                else:
                    self._idle.remove(waiter)
                return


def _is_changed(clean: Context) -> bool:
    """Whether the context of this task is another one now; by identity, as not all values can be compared."""
    context = copy_context()
    return len(context) != len(clean) or any(context.get(variable, clean) is not clean[variable] for variable in clean)


async def _was_cancelled() -> bool:
    """Whether this task has a past that its next job would learn of; a cancellation that is still to come is taken."""
    if not on_asyncio():
        return False  # on trio scopes are cancelled, and they are the job's
    task = asyncio.current_task()
    assert task is not None
    if not task.cancelling():
        return has_debts(task)
    with suppress(asyncio.CancelledError):  # a task that ends with one ends its group
        await asyncio.sleep(0)
    return True
