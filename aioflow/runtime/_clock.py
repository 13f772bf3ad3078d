"""The clock that sessions and servers go by: the event loop's own, which a simulated loop advances."""

from __future__ import annotations

import asyncio
import sys

__all__ = ["now"]


def now() -> float:
    """Return the running event loop's time in seconds; only differences mean something.

    On trio it starts anywhere, and on uvloop it stands still within a turn of the loop.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        time: float = sys.modules["trio"].current_time()
        return time
    return loop.time()
