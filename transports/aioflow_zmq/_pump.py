"""Who owns a socket: what watches its descriptor and takes turns, and a task that takes them when asked or due.

The descriptor is edge-triggered: it wakes once for what libzmq has to say, and any call on the socket, a send too, may
take that in and leave the descriptor silent. Hence two rules:

1. A turn ends only after the socket's EVENTS, asked last, show nothing that can be done.
2. Who calls the socket outside of a turn asks for EVENTS afterwards and calls `wake` if there is something to do.

A turn is a plain function, so two never overlap, and what a turn calls sees the socket in no half state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from aioflow.watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow_zmq._context import Socket


class Pump:
    """Takes turns on a socket whenever it wakes.

    Args:
        socket: The socket; nobody else waits for its descriptor.
        turn: Does what can be done and returns how long to wait for the next wake-up at most; 0 to go on soon.
    """

    def __init__(self, socket: Socket, turn: Callable[[], float]) -> None:
        self._turn = turn
        self._watch = watch(socket.fileno(), self._take_turn, lambda: True)
        self._due = math.inf
        self._wait: anyio.CancelScope | None = None
        self._woken = anyio.Event()
        self._stopped = False
        self._in_turn = False

    @property
    def in_turn(self) -> bool:
        """Whether a turn is going on, which will itself see what is left to do."""
        return self._in_turn

    async def run(self) -> None:
        """Take a turn now, and whenever the descriptor wakes, until `stop`."""
        self._take_turn()
        await self._watch.run()

    async def run_woken(self) -> None:
        """Take a turn whenever `wake` was called, or one is due, until `stop`; beside `run`."""
        while not self._stopped:
            with anyio.CancelScope(deadline=self._due) as self._wait:
                await self._woken.wait()
            self._woken = anyio.Event()
            self._take_turn()

    def wake(self) -> None:
        """Have a turn taken soon."""
        self._woken.set()

    def stop(self) -> None:
        """End `run` and `run_woken` before their next turn."""
        self._stopped = True
        self._woken.set()
        self._watch.stop()

    def _take_turn(self) -> None:
        if self._stopped:
            return
        self._in_turn = True
        try:
            wait_s = self._turn()
        finally:
            self._in_turn = False
        if not wait_s:
            self._woken.set()
        due = anyio.current_time() + wait_s if wait_s < math.inf else math.inf
        if due != self._due:
            self._due = due
            if self._wait is not None:
                self._wait.deadline = due
