"""The parts of one step that other tasks run: begun together, waited for one after the other, ended when one fails.

1. They are begun when the master's own part has given them its values, or first waits. Small values go with them: each
   message of its own would cost more than most parts do, as would a task for each part.
2. The first failure, of whichever part, cancels `scope`, in which the master runs its own part and waits for the
   others.
"""

from __future__ import annotations

import types
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from aioflow.cluster._remote_steps import values_of
from aioflow.errors import AioflowError
from aioflow.runtime import await_outcome, now

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence

    from aioflow.cluster._remote_call import RemoteCall
    from aioflow.cluster._transfer import Deliver
    from aioflow.graph import Task
    from aioflow.transport import Frame

__all__ = ["PartsElsewhere"]

T = TypeVar("T")

# How long a step that is over waits for the parts that were told to end.
END_S = 1.0
# What goes with a part is kept by both sides until the part has ended; a larger value goes by itself.
GIVEN_BYTES_MAX = 8192
# The others wait no longer than this for a part that gives turns, and never waits.
BEGIN_S = 0.001


class PartsElsewhere:
    """Requests of one step to other tasks.

    Args:
        deliver: Gives a value to a part that was begun.
        expected: How many values the master's own part has for the others.

    Attributes:
        scope: Cancelled when a part fails.
        error: Why the first one did.
    """

    def __init__(self, deliver: Deliver, expected: int) -> None:
        self.scope = anyio.CancelScope()
        self.error: BaseException | None = None
        self._deliver = deliver
        self._expected = expected
        self._waiting: dict[Task, Callable[[Mapping[str, Frame]], RemoteCall]] = {}
        self._given: dict[Task, dict[str, Frame]] = {}  # of those that wait
        self._calls: dict[Task, RemoteCall] = {}

    def add(self, task: Task, begin: Callable[[Mapping[str, Frame]], RemoteCall]) -> None:
        """Take a part, and what begins it with values by key."""
        self._waiting[task] = begin
        self._given[task] = {}

    async def deliver(self, task: Task, step: str, key: str, frames: Sequence[Frame]) -> None:
        """Give a value to a part: with its begin, or by itself; as `Deliver`."""
        given = self._given.get(task)
        if given is not None and len(frames) == 1 and len(frames[0]) <= GIVEN_BYTES_MAX:
            given[key] = frames[0]
            self._expected -= 1
            if not self._expected:
                self.begin()
        else:
            await self._deliver(task, step, key, frames)

    def begin(self) -> None:
        """Have the other tasks begin; a failure is told by `wait`."""
        waiting, self._waiting = self._waiting, {}
        for task, begin in waiting.items():
            try:
                call = self._calls[task] = begin(self._given.pop(task))
            except AioflowError as error:
                self._fail(error)
                break
            call.waiter.when_set(partial(self._told, call))

    async def run_beside(self, own: Coroutine[Any, Any, T]) -> T:
        """Run the master's own part; the others begin when they have its values, it first waits, or has ended."""
        if not self._expected:
            self.begin()
        return await _run(own, self.begin, now() + BEGIN_S)

    async def wait(self, task: Task) -> list[Any]:
        """Wait for the values of a task's part.

        Raises:
            AioflowError: What the part raised, or why it could not begin.
        """
        if self.error is not None:
            raise self.error
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

    def _told(self, call: RemoteCall) -> None:
        error = call.waiter.error
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.scope.cancel()


@types.coroutine
def _run(coroutine: Coroutine[Any, Any, T], begin: Callable[[], None], until: float) -> Generator[Any, Any, T]:
    """Await a coroutine; a function is called whenever it waits, or gives a turn later than a time, and at the end."""
    resume: Callable[[Any], Any] = coroutine.send
    given: Any = None
    while True:
        try:
            waited = resume(given)
        except StopIteration as end:
            begin()
            return end.value  # type: ignore[no-any-return]
        if waited is not None or now() > until:  # asyncio's tasks give None for a turn
            begin()
        try:
            resume, given = coroutine.send, (yield waited)
        except BaseException as error:  # noqa: BLE001 - it is the coroutine's
            resume, given = coroutine.throw, error
