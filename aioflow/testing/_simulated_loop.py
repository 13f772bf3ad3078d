"""An asyncio event loop in virtual time: it never waits, but goes on to what is due next; a seed orders its tasks."""

from __future__ import annotations

import asyncio
import random
import selectors
import threading
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from aioflow.testing._network import SimulatedNetwork

__all__ = ["SimulatedLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# What a turn of the loop takes: a program that waits by looking again and again gets on, too.
TURN_S = 20e-6

# How much longer than its limit a run may take to end once the limit has come.
CLEANUP_S = 60.0

_FOREIGN = "simulate() runs coroutines of one event loop only: it has no threads, subprocesses, signals or sockets"


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a simulated network's.

    The steps of the tasks that are ready together happen in an order that the seed decides: asyncio promises none, and
    here each run tries another. Everything else that is ready keeps its place.
    """

    def __init__(self, network: SimulatedNetwork, seed: int, limit_s: float) -> None:
        self.network = network
        self._limit_s = limit_s
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._tasks_made = 0
        self._thread = threading.get_ident()
        self._ready: deque[asyncio.Handle]
        self._clock_resolution: float
        super().__init__(_NoSelector(self))
        self._clock_resolution = 1e-9
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - a class

    def time(self) -> float:
        """Return the virtual time."""
        return self.network.now

    def go_on(self, timeout: float | None) -> None:
        """Go on to the next timer or event of the network; called where another loop waits."""
        network = self.network
        if timeout is not None and timeout <= 0:
            network.advance(network.now + TURN_S)
            return
        due = [network.next_at, None if timeout is None else network.now + timeout]
        times = [time for time in due if time is not None]
        if not times:
            raise TimeoutError(f"nothing is due any more, and every task waits; {_FOREIGN}\n{self._where_tasks_wait()}")
        if min(times) > self._limit_s:
            message = f"the run was not over at its limit of {self._limit_s} s\n{self._where_tasks_wait()}"
            self._limit_s = min(times) + CLEANUP_S
            raise TimeoutError(message)
        network.advance(min(times))

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Refuse other threads."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(_FOREIGN)
        return super().call_soon_threadsafe(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:  # noqa: ARG002
        """Refuse."""
        raise RuntimeError(_FOREIGN)

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:  # noqa: ARG002
        """Refuse."""
        raise RuntimeError(_FOREIGN)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **named: Any) -> _Task:
        self._tasks_made += 1
        return _Task(self._tasks_made, coro, loop=loop, **named)

    def _process_events(self, event_list: list[Any]) -> None:
        """Order the steps of tasks anew; asyncio calls this before each turn."""
        del event_list
        ready = self._ready
        if len(ready) < 2:
            return
        places: list[int] = []
        steps: list[tuple[int, int, asyncio.Handle]] = []
        for place, handle in enumerate(ready):
            task = getattr(getattr(handle, "_callback", None), "__self__", None)
            if isinstance(task, _Task):
                places.append(place)
                steps.append((task.number, place, handle))
        if len(steps) > 1:
            # By their numbers first: the order in which a set of tasks was cancelled depends on addresses in memory.
            steps.sort()
            self._random.shuffle(steps)
            for place, (_, _, handle) in zip(places, steps, strict=True):
                ready[place] = handle

    def _where_tasks_wait(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=hash)
        return "\n".join(f"  {task.get_name()}: {' > '.join(_calls(task.get_coro()))}" for task in tasks)


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address in memory."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **named: Any) -> None:
        self.number = number
        super().__init__(coro, **named)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


def _calls(awaited: Any) -> list[str]:
    """Return the calls in which a coroutine waits, the innermost last."""
    calls: list[str] = []
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        calls.append(f"{frame.f_code.co_name} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})")
        awaited = awaited.cr_await
    return calls


class _NoSelector(selectors.BaseSelector):
    """Stands where a loop waits for files: it takes the loop's own pipe, and nothing else."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:
            raise RuntimeError(_FOREIGN)
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, fileobj, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj]

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.go_on(timeout)
        return []
