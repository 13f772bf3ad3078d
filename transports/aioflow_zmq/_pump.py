"""Who owns a socket: a task that sleeps on the socket's descriptor and takes turns, and one that takes them when asked.

The descriptor is edge-triggered: it wakes once for what libzmq has to say, and any call on the socket, a send too, may
take that in and leave the descriptor silent. Hence two rules:

1. A turn ends only after the socket's EVENTS, asked last, show nothing that can be done.
2. Who calls the socket outside of a turn asks for EVENTS afterwards and calls `wake` if there is something to do.

A turn is a plain function, so two never overlap, and what a turn calls sees the socket in no half state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow_zmq._context import Socket


class Pump:
    """Takes turns on a socket whenever it wakes.

    Args:
        socket: The socket; nobody else waits for its descriptor.
        turn: Does what can be done and returns how long to wait for the next wake-up at most; 0 to go on at once.
    """

    def __init__(self, socket: Socket, turn: Callable[[], float]) -> None:
        self._fd = socket.fileno()
        self._turn = turn
        self._wait: anyio.CancelScope | None = None
        self._woken = anyio.Event()
        self._stopped = False
        self._in_turn = False

    @property
    def in_turn(self) -> bool:
        """Whether a turn is going on, which will itself see what is left to do."""
        return self._in_turn

    async def run(self) -> None:
        """Take a turn whenever the descriptor wakes, until `stop`."""
        while not self._stopped:
            wait_s = self._take_turn()
            if self._stopped:
                break
            if not wait_s:
                await checkpoint()
                continue
            with anyio.move_on_after(wait_s) as self._wait:
                await anyio.wait_readable(self._fd)

    async def run_woken(self) -> None:
        """Take a turn whenever `wake` was called, until `stop`; beside `run`, whose wait it leaves alone.

        To end that wait and begin it anew would cost several times the turn.
        """
        while not self._stopped:
            await self._woken.wait()
            self._woken = anyio.Event()
            if self._stopped:
                break
            wait_s = self._take_turn()
            if not wait_s:
                self._woken.set()
            elif self._wait is not None:
                self._wait.deadline = min(self._wait.deadline, anyio.current_time() + wait_s)

    def wake(self) -> None:
        """Have a turn taken soon."""
        self._woken.set()

    def stop(self) -> None:
        """End `run` and `run_woken` before their next turn."""
        self._stopped = True
        self._woken.set()
        if self._wait is not None:
            self._wait.cancel()

    def _take_turn(self) -> float:
        self._in_turn = True
        try:
            return self._turn()
        finally:
            self._in_turn = False
