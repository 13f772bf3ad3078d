"""When calls that need not wait give other tasks of their event loop a turn, and whether this task runs on asyncio."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["begin_turn", "every_call_gives_a_turn", "give_turn", "on_asyncio", "turns"]

# A call that need not wait gives other tasks a turn this often: long against a loop turn, which takes 10 µs where large
# rows have swept the caches, and short for a person. At 100 µs a loader of images was slower by a twentieth.
YIELD_EVERY_S = 200e-6


class _Turns(threading.local):
    """When the event loop of this thread gives its next turn."""

    next: float = 0.0
    always: bool = False


turns = _Turns()


def on_asyncio() -> bool:
    """Whether the running task is asyncio's (uvloop included); otherwise it is trio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def begin_turn() -> None:
    """Learn that the event loop gives a turn now: to a task that begins, or goes on after a wait."""
    turns.next = monotonic() + YIELD_EVERY_S


async def give_turn() -> None:
    """Give other tasks of this event loop a turn, if it is time.

    Called after an operation was issued, as a part of its wait: calls take effect in the order in which they were made.
    """
    if turns.always or monotonic() >= turns.next:
        if on_asyncio():
            await asyncio.sleep(0)  # what anyio's checkpoint comes to, at a third of its cost
        else:
            await anyio.lowlevel.checkpoint()
        begin_turn()


@contextmanager
def every_call_gives_a_turn() -> Generator[None]:
    """Let the calls of this thread not look at the time, for a program that must do the same in every run."""
    turns.always = True
    try:
        yield
    finally:
        turns.always = False
