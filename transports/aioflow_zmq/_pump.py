"""The owner task of one socket: it sleeps on the socket's descriptor and takes turns.

The descriptor is edge-triggered: it wakes once for what libzmq has to say, and any call on the socket, a send too, may
take that in and leave the descriptor silent. Hence two rules:

1. A turn ends only after the socket's EVENTS, asked last, show nothing that can be done.
2. Who calls the socket outside of a turn asks for EVENTS afterwards and calls `wake` if there is something to do.
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
        self._stopped = False
        self._in_turn = False

    @property
    def in_turn(self) -> bool:
        """Whether a turn is going on, which will itself see what is left to do."""
        return self._in_turn

    async def run(self) -> None:
        """Take turns until `stop`."""
        while not self._stopped:
            self._in_turn = True
            try:
                wait_s = self._turn()
            finally:
                self._in_turn = False
            if self._stopped:
                break
            if not wait_s:
                await checkpoint()
                continue
            with anyio.move_on_after(wait_s) as self._wait:
                await anyio.wait_readable(self._fd)

    def wake(self) -> None:
        """Have a turn taken soon, by the owner task."""
        if self._wait is not None:
            self._wait.cancel()

    def stop(self) -> None:
        """End `run` before its next turn."""
        self._stopped = True
        self.wake()
