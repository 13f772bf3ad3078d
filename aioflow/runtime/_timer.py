"""Wakes when something is due, and never otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from aioflow.runtime._clock import now

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Timer"]


class Timer:
    """Calls `expire(now)` when `next_deadline()` has come; `changed` tells it to look again."""

    def __init__(self, next_deadline: Callable[[], float | None], expire: Callable[[float], None]) -> None:
        self._next_deadline = next_deadline
        self._expire = expire
        self._event = anyio.Event()

    def changed(self) -> None:
        """Look again when the next thing is due."""
        self._event.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            due = self._next_deadline()
            with anyio.move_on_after(math.inf if due is None else max(0.0, due - now())):
                await self._event.wait()
            self._event = anyio.Event()
            self._expire(now())
