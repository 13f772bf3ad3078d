"""A libzmq socket with its monitor and its share of the context: opened together, closed together."""

from __future__ import annotations

import struct
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import anyio
import zmq

from aioflow_zmq._context import acquire_context, release_context
from aioflow_zmq._forks import current_generation
from aioflow_zmq._limits import BACKLOG, DESTROY_S, FRAME_BYTES_MAX, HANDSHAKE_S

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENT = struct.Struct("=HI")
_numbers = count()

# libzmq's own reconnecting would give messages meant for one server to its successor. A day means never, and unlike -1
# it leaves what has arrived readable after a loss.
_NEVER_MS = 86_400_000


class Event(NamedTuple):
    """What happened to a socket's connections, and the descriptor or the error code that it is about."""

    kind: int
    value: int


class OwnedSocket:
    """A socket and its monitor.

    Attributes:
        raw: The socket.
        monitor: The socket from which its events are read.
        generation: The process in which it was made (`_forks.py`).
    """

    def __init__(self, kind: int, events: int, messages_max: int) -> None:
        self.generation = current_generation()
        self._context = acquire_context()
        self._is_open = True
        self.raw = self._context.socket(kind)
        self.raw.setsockopt(zmq.LINGER, 0)
        self.raw.setsockopt(zmq.SNDHWM, messages_max)
        self.raw.setsockopt(zmq.RCVHWM, messages_max)
        self.raw.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        self.raw.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_S * 1000)
        self.raw.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        self.raw.setsockopt(zmq.BACKLOG, BACKLOG)
        endpoint = f"inproc://aioflow-monitor-{next(_numbers)}"
        self.raw.monitor(endpoint, events | zmq.EVENT_MONITOR_STOPPED)
        self.monitor = self._context.socket(zmq.PAIR)
        self.monitor.setsockopt(zmq.LINGER, 0)
        self.monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's thread would stand still while its events find no room
        self.monitor.connect(endpoint)

    def next_event(self) -> Event | None:
        """Return the next event; None if there is none now."""
        try:
            data = self.monitor.recv(zmq.DONTWAIT)
        except zmq.Again:
            return None
        self.monitor.recv(zmq.DONTWAIT)  # the endpoint
        return Event(*_EVENT.unpack(data))

    async def wait_event(self) -> Event:
        """Return the next event, waiting for it; not while a pump runs on the monitor."""
        while (event := self.next_event()) is None:
            if not self.monitor.get(zmq.EVENTS) & zmq.POLLIN:
                await anyio.wait_readable(self.monitor.fileno())
        return event

    async def aclose(self, on_event: Callable[[Event], None] | None = None) -> None:
        """Close both and give back the context, once libzmq has let go of the socket and of its files."""
        if not self._is_open or self.generation != current_generation():
            return
        self._is_open = False
        gone = False
        self.raw.close()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(DESTROY_S):
                while not gone:
                    event = await self.wait_event()
                    gone = event.kind == zmq.EVENT_MONITOR_STOPPED
                    if on_event is not None:
                        on_event(event)
            self.monitor.close()
            await release_context(self._context, sockets_are_gone=gone)
