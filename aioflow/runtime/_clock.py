"""The clock that sessions and servers go by: the event loop's own, which a simulated loop advances."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["event_loop_clock", "now"]


def now() -> float:
    """Return the running event loop's time in seconds; only differences mean something.

    On trio it starts anywhere, and on uvloop it stands still within a turn of the loop.
    """
    return event_loop_clock()()


def event_loop_clock() -> Callable[[], float]:
    """Return `now` for the event loop that runs: to find the loop costs more than to read its clock."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        clock: Callable[[], float] = sys.modules["trio"].current_time
        return clock
