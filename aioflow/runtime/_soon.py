"""One call for everything that the tasks which run now ask for."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from aioflow.runtime._turns import on_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Soon"]


class Soon:
    """Called, it has a function called once, in the next turn of the event loop; made in a task of that loop.

    Args:
        function: What is called; it runs in no task.
        failed: Told what it raises.
    """

    def __init__(self, function: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        self._function = function
        self._failed = failed
        self._is_due = False
        self._call_soon: Callable[[Callable[[], None]], object]
        if on_asyncio():
            self._call_soon = asyncio.get_running_loop().call_soon
        else:
            self._call_soon = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon

    def __call__(self) -> None:
        """Ask for the call."""
        if not self._is_due:
            self._is_due = True
            self._call_soon(self._call)

    def _call(self) -> None:
        self._is_due = False
        try:
            self._function()
        except BaseException as error:  # noqa: BLE001 - of what no task runs, an event loop says no more than that
            self._failed(error)
