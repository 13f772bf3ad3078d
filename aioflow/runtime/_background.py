"""Tasks that belong to an object with `open` and `close` instead of to a block of code.

`await session.open()` may be called anywhere, so its tasks cannot live in a task group of the caller's; they live in
one of their own, inside a task that the event loop holds.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import anyio

from aioflow.runtime._cancellation import finish
from aioflow.runtime._turns import on_asyncio
from aioflow.runtime._waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

__all__ = ["Background"]


class Background:
    """A task group that runs from `start` to `stop`; an error in it is kept and given to `on_error`."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._started: Waiter[TaskGroup] = Waiter()
        self._stop = anyio.Event()
        self._ended = anyio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_started = False

    @property
    def group(self) -> TaskGroup:
        """The task group, once it was started."""
        return self._started.value

    async def start(self) -> TaskGroup:
        """Start, and return the task group."""
        self._is_started = True
        if on_asyncio():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="aioflow")
        else:
            sys.modules["trio"].lowlevel.spawn_system_task(self._run, name="aioflow")
        try:
            return await self._started.wait()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Cancel the tasks and wait until they have ended, whatever happens to the caller."""
        if self._is_started:
            self._stop.set()
            await finish(self._ended.wait)

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as group:
                self._started.resolve(group)
                await self._stop.wait()
                group.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - whoever owns this object decides what an error means
            self._on_error(error)
        except BaseExceptionGroup as group_of_errors:
            if on_asyncio() or group_of_errors.subgroup(KeyboardInterrupt) is None:
                raise
            # Trio raises Ctrl-C in whichever task runs. It is the main task's: trio protects this one, and hands it on.
            self._on_error(group_of_errors)
            signal.raise_signal(signal.SIGINT)
        finally:
            self._ended.set()
