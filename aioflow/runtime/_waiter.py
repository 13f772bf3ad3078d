"""A place to wait for one answer, on asyncio and on trio, that survives the cancellation of a wait.

`anyio.Event` would do, at several times the cost on asyncio; this stands on every operation's path.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aioflow.runtime._turns import begin_turn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Waiter"]

T = TypeVar("T")


class Waiter(Generic[T]):
    """Set once, to a value or an error; waited for by one task at a time."""

    __slots__ = ("_error", "_parked", "_value", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._parked: Any = None  # the asyncio future or trio task of who waits now, or a function

    @property
    def value(self) -> T:
        """The value that was set."""
        return self._value  # type: ignore[return-value]

    @property
    def error(self) -> BaseException | None:
        """The error that was set, if one was."""
        return self._error

    def resolve(self, value: T) -> None:
        """Set the value; the waiting task runs later, never from within."""
        if not self.is_set:
            self.is_set = True
            self._value = value
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Set an error, to be raised by `wait`."""
        if not self.is_set:
            self.is_set = True
            self._error = error
            self._wake()

    async def wait(self) -> T:
        """Wait until it is set; a cancelled wait leaves it as it is, and it can be waited for again."""
        if not self.is_set:
            await self._park()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def when_set(self, function: Callable[[], object]) -> None:
        """Have a function called by whoever sets it, if nobody waits then; for one that is not set."""
        self._parked = function

    def _wake(self) -> None:
        parked, self._parked = self._parked, None
        if isinstance(parked, asyncio.Future):
            if not parked.done():
                parked.set_result(None)
        elif callable(parked):
            parked()
        elif parked is not None:
            sys.modules["trio"].lowlevel.reschedule(parked)

    async def _park(self) -> None:
        try:
            self._parked = asyncio.get_running_loop().create_future()
        except RuntimeError:  # no loop of asyncio runs
            await self._park_on_trio()
        else:
            await self._parked
        begin_turn()

    async def _park_on_trio(self) -> None:
        trio = sys.modules["trio"]

        def abort(_: Any) -> Any:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
