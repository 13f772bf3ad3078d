"""One call for everything that the tasks which run now ask for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aioflow.runtime._clock import event_loop_clock
from aioflow.runtime._turns import on_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Soon"]


# What is asked for so soon after the last time is likely to be by another task of the same turn, or by one of many.
TURN_S = 50e-6


class Soon:
    """Called, it has a function called: at once, or once in the next turn of the event loop for all who ask meanwhile.

    A call of which there is one a turn, as where one task asks and waits, is not put off; where many tasks ask in a
    turn, the first of them is alone. Made in a task of that loop.

    Args:
        function: What is called; it runs in no task.
        failed: Told what it raises.
    """

    def __init__(self, function: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._function = function
        self._failed = failed
        self._is_due = False
        self._clock = event_loop_clock()
        self._alone_from = 0.0
        self._call_soon: Callable[[Callable[[], None]], object]
        if on_asyncio():
            self._call_soon = asyncio.get_running_loop().call_soon
        else:
            self._call_soon = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon

    def __call__(self) -> None:
        """Ask for the call."""
        if self._is_due:
            return
        time = self._clock()
        if time >= self._alone_from:
            self._alone_from = time + TURN_S
            self._call()
        else:
            self._is_due = True
            self._call_soon(self._call)

    def _call(self) -> None:
        self._is_due = False
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001 - of what no task runs, an event loop says no more than that
            self._failed(error)
