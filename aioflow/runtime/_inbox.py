"""What other threads have to tell the event loop: many notes, one wake."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aioflow.runtime._turns import on_asyncio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Inbox"]


class Inbox:
    """Runs functions that other threads post, on the event loop in which it was made."""

    def __init__(self) -> None:
        self._wake: Callable[[Callable[[], None]], Any]
        if on_asyncio():
            self._wake = asyncio.get_running_loop().call_soon_threadsafe
        else:
            self._wake = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon
        self._lock = threading.Lock()  # no wake is under way when the close returns
        self._posts: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_woken = False
        self._is_closed = False

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have a function called on the event loop soon; from any thread. After the close it is dropped."""
        self._posts.append((function, args))
        # It is added before the look: the loop forgets that it was woken, and then takes what is there.
        if not self._is_woken:
            with self._lock:
                if not self._is_closed:
                    self._is_woken = True
                    with suppress(RuntimeError):  # the event loop has ended; trio's error is one of these
                        self._wake(self._run)

    def close(self) -> None:
        """Wake the event loop no more: it may end."""
        with self._lock:
            self._is_closed = True

    def _run(self) -> None:
        self._is_woken = False
        while self._posts:
            function, args = self._posts.popleft()
            function(*args)
