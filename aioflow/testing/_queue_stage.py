"""What the checks of queues share: operations in tasks of their own, and seeing without sleeping that one waits."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from aioflow.client import FIFOQueue, Queue, Session

if TYPE_CHECKING:
    from collections.abc import Generator

    from anyio.abc import TaskGroup

    from aioflow.queues import QueueStats

__all__ = ["OpenSession", "QueueCheck", "Started", "fresh_name", "ints", "refused", "start", "until"]

OpenSession = Callable[[], AbstractAsyncContextManager[Session]]
QueueCheck = Callable[[OpenSession], Awaitable[None]]

# Round trips within which most is seen: a few are enough, other sessions' messages take longer. What a thread does may
# take seconds beside a loop that never sleeps: it gets the interpreter every 5 ms only.
ROUND_TRIPS_MAX = 200
LOOK_AGAIN_S = 0.001
# Seconds after which what was to be seen counts as missing.
SEEN_S = 8.0

_numbers = itertools.count(1)


class Started:
    """An operation in a task of its own.

    Attributes:
        is_done: Whether it has ended, however.
        notes: Of the exception with which it ended, a cancellation included.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        self.is_done = False
        self.notes: list[str] = []
        self._call = call
        self._arguments = arguments
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._result: Any = None
        self._error: Exception | None = None

    async def run(self) -> None:
        """Run it."""
        with self._scope:
            try:
                self._result = await self._call(*self._arguments)
            except BaseException as error:
                self.notes = list(getattr(error, "__notes__", []))
                if not isinstance(error, Exception):
                    raise
                self._error = error
        self.is_done = True
        self._ended.set()

    async def outcome(self) -> Any:
        """Wait for the end; return the result or raise the error."""
        await self._ended.wait()
        assert not self._scope.cancelled_caught, "the operation was cancelled"
        if self._error is not None:
            raise self._error
        return self._result

    async def cancel(self) -> bool:
        """Cancel it and wait for the end; return whether the cancellation won."""
        self._scope.cancel()
        await self._ended.wait()
        return self._scope.cancelled_caught


def start(tasks: TaskGroup, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Started:
    """Start an operation in a task of its own."""
    started = Started(call, arguments)
    tasks.start_soon(started.run)
    return started


async def until(queue: Queue, **expected: Any) -> QueueStats:
    """Ask for the queue's statistics until they are as expected; bounded in time."""
    stats = await queue.stats()
    deadline = time.monotonic() + SEEN_S
    for round_trips in itertools.count():
        if all(getattr(stats, name) == value for name, value in expected.items()):
            return stats
        if time.monotonic() > deadline:
            break
        await (checkpoint() if round_trips < ROUND_TRIPS_MAX else anyio.sleep(LOOK_AGAIN_S))
        stats = await queue.stats()
    raise AssertionError(f"expected {expected}, the last was {stats}")


@contextmanager
def refused(kind: type[BaseException], *parts: str) -> Generator[list[BaseException]]:
    """Assert that the block raises an error of exactly this class whose text has these parts; gives the error."""
    caught: list[BaseException] = []
    try:
        yield caught
    except kind as error:
        assert type(error) is kind, f"expected {kind.__name__}, got {error!r}"
        missing = [part for part in parts if part not in str(error)]
        assert not missing, f"{missing} not in {error!r}"
        caught.append(error)
    assert caught, f"expected {kind.__name__}, nothing was raised"


def ints(capacity: int = 10, **options: Any) -> FIFOQueue:
    """Define a FIFOQueue of int64 scalars."""
    return FIFOQueue(capacity, "int64", (), **options)


def fresh_name() -> str:
    """Return a shared name that no other check uses."""
    return f"check:{os.getpid()}:{next(_numbers)}"
