"""The parts of one step that other tasks run: waited for one after the other, ended together when one fails.

A task for each would cost more than most parts do. The first failure, of whichever part, cancels `scope`, in which the
master runs its own part and waits for the others.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from aioflow.cluster._remote_steps import values_of
from aioflow.errors import ConnectionLost
from aioflow.runtime import await_outcome

if TYPE_CHECKING:
    from collections.abc import Generator

    from aioflow.cluster._remote_call import RemoteCall
    from aioflow.graph import Task

__all__ = ["PartsElsewhere"]

# How long a step that is over waits for the parts that were told to end.
END_S = 1.0


class PartsElsewhere:
    """Requests of one step to other tasks.

    Attributes:
        scope: Cancelled when a part fails.
        error: Why the first one did.
    """

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.error: BaseException | None = None
        self._calls: dict[Task, RemoteCall] = {}

    def add(self, task: Task, call: RemoteCall) -> None:
        """Take a part that was begun."""
        self._calls[task] = call
        if call.waiter.is_set:
            self._told(task)
        else:
            call.waiter.when_set(partial(self._told, task))

    async def wait(self, task: Task) -> list[Any]:
        """Wait for the values of a task's part.

        Raises:
            AioflowError: What the part raised.
        """
        with self.naming(task):
            return values_of(await self._calls[task].waiter.wait())

    async def end(self) -> None:
        """Withdraw the parts that run still, and wait until they have ended, within a bound."""
        running = [call for call in self._calls.values() if not call.waiter.is_set]
        for call in running:
            call.withdraw()
        if running:
            with anyio.move_on_after(END_S, shield=True):
                for call in running:
                    await await_outcome(call.waiter)

    @contextmanager
    def naming(self, task: Task) -> Generator[None]:
        """Name the task in the error of its loss."""
        try:
            yield
        except ConnectionLost as error:
            raise _lost(task, error) from error

    def _told(self, task: Task) -> None:
        error = self._calls[task].waiter.error
        if error is not None and self.error is None:
            self.error = _lost(task, error) if isinstance(error, ConnectionLost) else error
            self.scope.cancel()


def _lost(task: Task, error: ConnectionLost) -> ConnectionLost:
    return ConnectionLost(f"{task} was lost while it ran its part of a step: {error}")
