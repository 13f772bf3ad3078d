"""A libzmq socket with its monitor and its share of the context: opened together, closed together."""

from __future__ import annotations

import struct
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, cast

import anyio
import zmq

from aioflow.errors import ConnectFailed
from aioflow_zmq._context import acquire_context, release_context
from aioflow_zmq._forks import current_generation
from aioflow_zmq._limits import BACKLOG, DESTROY_S, FRAME_BYTES_MAX, HANDSHAKE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow_zmq._context import Shared, Socket

_EVENT = struct.Struct("=HI")
_numbers = count()

# libzmq's own reconnecting would give messages meant for one server to its successor. A day means never, and unlike -1
# it leaves what has arrived readable after a loss.
_NEVER_MS = 86_400_000

# As plain integers: the bits of an enum's members are told with several calls in Python, on the way of every message.
POLLIN, POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)


class Event(NamedTuple):
    """What happened to a socket's connections, and the descriptor or the error code that it is about."""

    kind: int
    value: int


class OwnedSocket:
    """A socket and its monitor; made by `open`.

    Attributes:
        raw: The socket.
        monitor: The socket from which its events are read.
        generation: The process in which it was made (`_forks.py`).
    """

    def __init__(self, shared: Shared, raw: Socket, monitor: Socket) -> None:
        self.raw = raw
        self.monitor = monitor
        self.generation = current_generation()
        self._shared = shared
        self._is_open = True

    @classmethod
    async def open(cls, kind: int, events: int, messages_max: int, shared: Shared | None = None) -> OwnedSocket:
        """Make a socket that linger, limits and monitor have been set for, in the common context or another one.

        Raises:
            ConnectFailed: The process has as many sockets or descriptors as it may.
        """
        shared = acquire_context(shared)
        opened: list[Socket] = []
        try:
            opened.append(raw := shared.context.socket(kind))
            opened.append(monitor := shared.context.socket(zmq.PAIR))
            _configure(raw, monitor, events, messages_max)
        except zmq.ZMQError as error:
            for socket in opened:
                socket.close()
            await release_context(shared, sockets_are_gone=False)
            raise ConnectFailed(f"cannot open a socket: {error}; close connections, or raise ulimit -n") from error
        return cls(shared, raw, monitor)

    def events(self) -> int:
        """Return what can be done on the socket, taking in what libzmq has to say."""
        return pending(self.raw)

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
            if not pending(self.monitor) & POLLIN:
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
            await release_context(self._shared, sockets_are_gone=gone)


def pending(socket: Socket) -> int:
    """Return a socket's EVENTS."""
    return cast("int", socket.get(zmq.EVENTS))


def _configure(raw: Socket, monitor: Socket, events: int, messages_max: int) -> None:
    raw.setsockopt(zmq.LINGER, 0)
    raw.setsockopt(zmq.SNDHWM, messages_max)
    raw.setsockopt(zmq.RCVHWM, messages_max)
    raw.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    raw.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_S * 1000)
    raw.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
    raw.setsockopt(zmq.BACKLOG, BACKLOG)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's thread would stand still while its events find no room
    endpoint = f"inproc://aioflow-monitor-{next(_numbers)}"
    raw.monitor(endpoint, events | zmq.EVENT_MONITOR_STOPPED)
    monitor.connect(endpoint)
