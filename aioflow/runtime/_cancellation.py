"""What a call owes to a cancellation that came in the moment of its success.

A put that was accepted just before its task was cancelled returns normally, since it did happen. On asyncio the
cancellation would then be forgotten; the task's next call raises it, if `Task.cancelling()` still says so. On trio the
cancellation is still there: every call begins by looking for it.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from aioflow.runtime._turns import on_asyncio, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioflow.runtime._waiter import Waiter

__all__ = [
    "await_outcome",
    "begin_call",
    "current_turn",
    "finish",
    "has_debts",
    "owe_cancellation",
]

# How long a cancelled put may wait for the answer to its withdrawal before the cancellation goes on.
WITHDRAWAL_S = 1.0


# Task to the arguments of the cancellation: anyio knows its own by them.
_owed: dict[asyncio.Task[Any], tuple[Any, ...]] = {}


def owe_cancellation(cancelled: BaseException) -> None:
    """Remember that the current task's cancellation was overtaken by success."""
    if on_asyncio():
        task = asyncio.current_task()
        if task is not None:
            _owed[task] = cancelled.args
            task.add_done_callback(lambda task: _owed.pop(task, None))


def has_debts(task: asyncio.Task[Any]) -> bool:
    """Whether a task's next call would raise a cancellation."""
    return task in _owed


def current_turn() -> float:
    """Return a number that no other turn of this thread has, or 0: a call that need not wait is to begin and give one.

    Seldom, so that otherwise it does its work as a plain function does. A cancellation that trio holds is met after
    200 µs at most.
    """
    return 0.0 if _owed or turns.always or monotonic() >= turns.next else turns.next


async def begin_call() -> None:
    """Begin a call: raise a cancellation that the task's last call owes."""
    if not on_asyncio():
        await anyio.lowlevel.checkpoint_if_cancelled()
    elif _owed:
        _raise_owed()


def _raise_owed() -> None:
    task = asyncio.current_task()
    arguments = _owed.pop(task, None) if task is not None else None
    if arguments is not None and task is not None and task.cancelling():
        raise asyncio.CancelledError(*arguments)


async def await_outcome(waiter: Waiter[Any]) -> bool:
    """Wait, shielded and at most `WITHDRAWAL_S`, until a withdrawn call is decided; say whether it was."""
    with anyio.move_on_after(WITHDRAWAL_S, shield=True) as scope:
        while not waiter.is_set:
            try:
                await waiter.wait()
            except asyncio.CancelledError:  # the task was cancelled once more: the bound above is enough
                if scope.cancel_called:
                    raise
            except Exception:  # noqa: BLE001 - the outcome; who called looks at it
                break
    return waiter.is_set


async def finish(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the closing of something, which is bounded, to its end; a cancellation that comes meanwhile goes on after it.

    A plain `Task.cancel` passes through anyio's shields, so on asyncio the closing runs in a task of its own.
    """
    if not on_asyncio():
        with anyio.CancelScope(shield=True):
            await close()
        return
    task = asyncio.get_running_loop().create_task(close(), name="aioflow")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # else it would be reported as never retrieved
        raise cancelled
    task.result()
