"""Values that go from a part of a step to another: the two ops that partitioning adds, and where they meet.

A send node gives its value to the server of the other task, which keeps it until the receive node of that step asks.
What comes for a step that has not begun here waits for it, within a bound of time; what comes for one that has ended
is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from aioflow.cluster._library import OpLibrary
from aioflow.cluster._values import decode_value, encode_value
from aioflow.errors import SpecMismatch
from aioflow.graph import Op, Task
from aioflow.runtime import Waiter
from aioflow.transport import Frame

__all__ = ["RECEIVE", "SEND", "Deliver", "Rendezvous", "Transfer", "transfer"]

# Steps that have ended, whose late values are dropped at once: more than can be on their way.
ENDED_MAX = 4096

# Gives a value's frames to another task, for a step and a key.
Deliver = Callable[[Task, str, str, Sequence[Frame]], Awaitable[None]]


class Rendezvous:
    """Where values that came for steps are met by those who receive them; of one server.

    Args:
        keep_s: How long values wait for a step that has not begun.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._running: dict[str, dict[str, Waiter[Sequence[Frame]]]] = {}
        self._early: dict[str, tuple[float, dict[str, Sequence[Frame]]]] = {}
        self._ended: deque[str] = deque(maxlen=ENDED_MAX)

    def begin(self, step: str) -> None:
        """Let a step begin here."""
        waiters = self._running.setdefault(step, {})
        _, early = self._early.pop(step, (0.0, {}))
        for key, frames in early.items():
            waiters[key] = Waiter()
            waiters[key].resolve(frames)

    def end(self, step: str) -> None:
        """Let a step end here: what nobody has received is dropped, and what still comes."""
        self._running.pop(step, None)
        self._ended.append(step)

    def give(self, step: str, key: str, frames: Sequence[Frame], now: float) -> None:
        """Take a value that has come."""
        waiters = self._running.get(step)
        if waiters is not None:
            waiters.setdefault(key, Waiter()).resolve(frames)
        elif step not in self._ended:
            _, early = self._early.setdefault(step, (now + self._keep_s, {}))
            early[key] = frames

    async def take(self, step: str, key: str) -> Any:
        """Wait for a value of a step that runs here."""
        waiter = self._running[step].setdefault(key, Waiter())
        frames = await waiter.wait()
        del self._running[step][key]
        return decode_value(frames, OpLibrary.restore)

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        for step in [step for step, (until, _) in self._early.items() if until <= now]:
            del self._early[step]

    def next_deadline(self) -> float | None:
        """When `expire` has something to do next."""
        return min((until for until, _ in self._early.values()), default=None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs, and nothing waits."""
        return not self._running and not self._early


class Transfer:
    """What the ops of one step use.

    Args:
        step: Its name.
        rendezvous: Of this server.
        deliver: Gives a value to another task.
    """

    def __init__(self, step: str, rendezvous: Rendezvous, deliver: Deliver) -> None:
        self._step = step
        self._rendezvous = rendezvous
        self._deliver = deliver

    async def send(self, task: Task, key: str, value: Any) -> None:
        """Give a value to another task."""
        try:
            frames = encode_value(value)
        except SpecMismatch as error:
            raise SpecMismatch(f"the value {key!r}: {error}") from error
        await self._deliver(task, self._step, key, frames)

    async def receive(self, key: str) -> Any:
        """Wait for a value of another task."""
        return await self._rendezvous.take(self._step, key)


transfer: ContextVar[Transfer | None] = ContextVar("aioflow_transfer", default=None)


def _current() -> Transfer:
    found = transfer.get()
    assert found is not None, "parts of a step run where it was set"
    return found


async def _send(key: str, job: str, index: int, value: Any) -> None:
    await _current().send(Task(job, index), key, value)


async def _receive(key: str) -> Any:
    return await _current().receive(key)


SEND = Op(_send, "send", num_outputs=0, path=f"{__name__}:SEND")
RECEIVE = Op(_receive, "receive", path=f"{__name__}:RECEIVE")
